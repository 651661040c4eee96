/** When files of an account go, and that R2 never keeps what nobody knows of. */
import { env } from "cloudflare:workers";
import { expect, it, vi } from "vitest";
import { FILE_RETENTION_MS, fileKey } from "../schema/files.ts";
import { newFileId } from "../schema/ids.ts";
import { AccountObject } from "./account.ts";
import type { BeginFile, FinishFile } from "./account-contract.ts";
import { anAdmit, envWith, freshName, passTime, stopClockInEachTest, withObject } from "./testing/harness.ts";

const DAY_MS = 86_400_000;

function aFinish(change: Partial<FinishFile> = {}): FinishFile {
  return {
    name: "a.txt",
    content_type: "text/plain",
    size_bytes: 1,
    sha256: "0".repeat(64),
    md5: "0".repeat(32),
    metadata: {},
    retention_ms: FILE_RETENTION_MS,
    ...change,
  };
}

const aBegin = (change: Partial<BeginFile> = {}): BeginFile => ({
  id: newFileId(env.SIGNING_SECRET),
  created_at: Date.now(),
  upload_id: null,
  file: null,
  ...change,
});

interface Tools {
  /** another instance over the same storage, as after a crash */
  restart: () => AccountObject;
  /** a file with bytes; answers its id */
  aFile: (account: AccountObject, change?: Partial<FinishFile>) => Promise<string>;
}

function withAccount(test: (account: AccountObject, tools: Tools) => Promise<void>): Promise<void> {
  return withObject("ACCOUNTS", freshName(), async (state) => {
    const restart = () => new AccountObject(state as never, envWith({}));
    const aFile: Tools["aFile"] = async (account, change) => {
      const begin = aBegin();
      await account.beginFile(begin);
      await env.FILES.put(fileKey(begin.id), "x");
      await account.finishFile(begin.id, aFinish(change));
      return begin.id;
    };
    await test(restart(), { restart, aFile });
  });
}

const isInR2 = async (id: string): Promise<boolean> => (await env.FILES.head(fileKey(id))) !== null;

stopClockInEachTest();

it("guarantees that a file is there until it expires, and its bytes are gone after the alarm", () =>
  withAccount(async (account, { aFile, restart }) => {
    const [day, week, forever] = [
      await aFile(account),
      await aFile(account, { retention_ms: 7 * DAY_MS }),
      await aFile(account, { retention_ms: null }),
    ];
    passTime(DAY_MS - 1);
    expect((await restart().file(day))?.expires_at).toBe(Date.now() + 1);
    passTime(1);
    expect(await account.file(day)).toBeNull();
    expect((await account.files({ limit: 10 })).files.map(({ id }) => id).toSorted()).toEqual(
      [week, forever].toSorted(),
    );
    await restart().alarm();
    expect(await Promise.all([day, week, forever].map(isInR2))).toEqual([false, true, true]);
    passTime(6 * DAY_MS);
    await restart().alarm();
    expect(await Promise.all([week, forever].map(isInR2))).toEqual([false, true]);
    expect((await account.file(forever))?.expires_at).toBeNull();
  }));

it("guarantees that a begin whose commit breaks leaves nothing behind, and that the next is stored", () =>
  withAccount(async (account, { aFile, restart }) => {
    // SQLite takes no value of this size.
    await expect(account.beginFile(aBegin({ upload_id: "x".repeat(3_000_000) }))).rejects.toThrow("too big");
    const id = await aFile(account);
    expect((await restart().file(id))?.id).toBe(id);
  }));

it("guarantees that a file which something will read outlives its own end", () =>
  withAccount(async (account, { aFile }) => {
    const [used, other, long] = [
      await aFile(account),
      await aFile(account),
      await aFile(account, { retention_ms: 9 * DAY_MS }),
    ];
    passTime(DAY_MS / 2);
    const unknown = newFileId(env.SIGNING_SECRET);
    expect(await account.keepFiles([used, unknown, long], Date.now() + DAY_MS)).toEqual([used, long]);
    passTime(DAY_MS / 2);
    await account.alarm();
    expect(await Promise.all([used, other, long].map(isInR2))).toEqual([true, false, true]);
    expect(await account.keepFiles([other], Date.now() + DAY_MS)).toEqual([]);
    expect((await account.file(long))?.expires_at).toBe(Date.now() + 8 * DAY_MS);
    passTime(DAY_MS / 2);
    await account.alarm();
    expect(await isInR2(used)).toBe(false);
  }));

it("guarantees that bytes whose upload died are removed a day later, and parts with them", () =>
  withAccount(async (account, { restart }) => {
    const whole = aBegin();
    await account.beginFile(whole);
    await env.FILES.put(fileKey(whole.id), "x");
    const id = newFileId(env.SIGNING_SECRET);
    const inR2 = await env.FILES.createMultipartUpload(fileKey(id));
    await account.beginFile(aBegin({ id, upload_id: inR2.uploadId }));
    passTime(DAY_MS - 1);
    await restart().alarm();
    expect(await isInR2(whole.id)).toBe(true);
    passTime(1);
    await restart().alarm();
    expect(await isInR2(whole.id)).toBe(false);
    await expect(inR2.uploadPart(1, "x")).rejects.toThrow(/10024|does not exist/);
    // Whoever ends such an upload after all is told to take its bytes back.
    expect(await account.finishFile(whole.id, aFinish())).toBeNull();
  }));

it("guarantees that deleted bytes go even when R2 fails at first", () =>
  withAccount(async (account, { aFile, restart }) => {
    const id = await aFile(account);
    expect(await account.removeFile(id, "pending")).toBe(false);
    expect(await account.removeFile(id, "ready")).toBe(true);
    expect(await account.file(id)).toBeNull();
    const failing = vi.spyOn(env.FILES, "delete").mockRejectedValueOnce(new Error("R2 is away"));
    await account.alarm();
    failing.mockRestore();
    expect(await isInR2(id)).toBe(true);
    passTime(60_000);
    await restart().alarm();
    expect(await isInR2(id)).toBe(false);
    expect(await account.removeFile(id, "ready")).toBe(false);
  }));

it("guarantees a bound on unfinished uploads, which finished ones do not count against", () =>
  withAccount(async (account, { aFile }) => {
    await aFile(account);
    for (let i = 0; i < 1_000; i++) expect(await account.beginFile(aBegin())).toBe(true);
    expect(await account.beginFile(aBegin())).toBe(false);
    passTime(DAY_MS);
    await account.alarm();
    expect(await account.beginFile(aBegin())).toBe(true);
  }));

it("guarantees that an account which has predictions from before it knew files takes them", () =>
  withAccount(async (account, { aFile, restart }) => {
    await account.admit(anAdmit());
    const id = await aFile(restart());
    passTime(DAY_MS);
    const again = restart();
    await again.alarm();
    expect(await isInR2(id)).toBe(false);
    expect((await again.files({ limit: 10 })).files).toEqual([]);
  }));

it("guarantees that asking an account without files stores nothing", () =>
  withObject("ACCOUNTS", freshName(), async (state) => {
    const account = new AccountObject(state as never, envWith({}));
    const id = newFileId(env.SIGNING_SECRET);
    expect(await account.file(id)).toBeNull();
    expect(await account.files({ limit: 10 })).toEqual({ files: [], more: false });
    expect(await account.upload(id)).toBeNull();
    expect(await account.keepFiles([id], Date.now())).toEqual([]);
    expect(await account.keepPart(id, 1, "etag")).toBe(false);
    expect(await account.removeFile(id, "ready")).toBe(false);
    expect(await account.finishFile(id, aFinish())).toBeNull();
    const tables = state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'");
    expect(tables.toArray()).toEqual([]);
  }));
