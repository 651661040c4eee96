/** The keys of an account, over their real SQLite; the clock moves only when a test moves it. */
import { env } from "cloudflare:workers";
import { expect, it } from "vitest";
import { AccountObject } from "./account.ts";
import { freshName, passTime, stopClockInEachTest, withObject } from "./testing/harness.ts";

const DAY_MS = 86_400_000;

stopClockInEachTest();

function withAccount(test: (account: AccountObject, restart: () => AccountObject) => Promise<void>): Promise<void> {
  return withObject("ACCOUNTS", freshName(), (state) => {
    const make = (): AccountObject => new AccountObject(state as never, env);
    return test(make(), make);
  });
}

it("is made by the first call, and stays over an eviction", () =>
  withAccount(async (account, restart) => {
    const made = await account.webhookKeys();
    expect(made.keys).toHaveLength(1);
    expect(await restart().webhookKeys()).toEqual(made);
  }));

it("signs beside the next one for a day, whether or not anybody asked for it before", () =>
  withAccount(async (account, restart) => {
    const [first = ""] = (await account.webhookKeys()).keys;
    const { key, previous_valid_until } = await account.rotateWebhookKey();
    expect(previous_valid_until).toBe(Date.now() + DAY_MS);
    expect((await restart().webhookKeys()).keys).toEqual([key, first]);
    passTime(DAY_MS / 2);
    const third = (await account.rotateWebhookKey()).key;
    expect((await account.webhookKeys()).keys).toEqual([third, key, first]);
    passTime(DAY_MS / 2);
    expect((await account.webhookKeys()).keys).toEqual([third, key]);
    passTime(DAY_MS);
    expect((await account.webhookKeys()).keys).toEqual([third]);
  }));

it("is one of eight at most, however often it is rotated", () =>
  withAccount(async (account) => {
    for (let n = 0; n < 20; n++) await account.rotateWebhookKey();
    const { key } = await account.rotateWebhookKey();
    const { keys } = await account.webhookKeys();
    expect(keys).toHaveLength(8);
    expect(keys[0]).toBe(key);
  }));
