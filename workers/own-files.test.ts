/** Own files as inputs: with the caller's rights, shown as they were given, and kept while something will read them. */

import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { ownFileId } from "../schema/files.ts";
import { newFileId } from "../schema/ids.ts";
import {
  anAccount,
  anAnnounce,
  aToken,
  call,
  FakeOrigin,
  PUBLIC_URL,
  predictionOf,
  problemOf,
  theOperator,
} from "./testing/edge.ts";

let origin: FakeOrigin;
let version: string;
let owner: { id: string; token: string };

beforeAll(async () => {
  await theOperator();
  origin = await FakeOrigin.join();
  version = await origin.announce("reader", anAnnounce());
  owner = await anAccount();
});

interface WireFile {
  id: string;
  expires_at: string;
  urls: { get: string; download: string };
}

async function aFile(token = owner.token, retention = "60s"): Promise<WireFile> {
  const head = '--b\r\nContent-Disposition: form-data; name="content"; filename="a.png"\r\nContent-Type: image/png';
  const answer = await call("POST", "/v1/files", {
    token,
    bytes: new TextEncoder().encode(`${head}\r\n\r\nbytes\r\n--b--\r\n`),
    headers: { "content-type": "multipart/form-data; boundary=b", "cogway-retention": retention },
  });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

const create = (image: string, token = owner.token, more: Record<string, unknown> = {}) =>
  call("POST", "/v1/predictions", { token, body: { version, input: { text: "x", image, ...more } } });

describe("an own file as an input", () => {
  for (const form of ["get", "download"] as const) {
    it(`is read by the origin without a token, and shown as it was given: urls.${form}`, async () => {
      const file = await aFile();
      const made = await predictionOf(await create(file.urls[form]));
      expect(made.input["image"]).toBe(file.urls[form]);
      const { input } = await origin.attemptOf(made.id);
      const url = String(input?.["image"]);
      expect(url.startsWith(`${PUBLIC_URL}/v1/files/${file.id}/download?`)).toBe(true);
      const got = await call("GET", url);
      expect([got.status, got.headers.get("content-type"), await got.text()]).toEqual([200, "image/png", "bytes"]);
      const shown = await call("GET", `/v1/predictions/${made.id}`, { token: owner.token });
      expect((await predictionOf(shown)).input["image"]).toBe(file.urls[form]);
    });
  }

  it("is kept for a day from then on", async () => {
    const file = await aFile();
    expect(Date.parse(file.expires_at) - Date.now()).toBeLessThan(61_000);
    await predictionOf(await create(file.urls.get));
    const kept = await (await call("GET", `/v1/files/${file.id}`, { token: owner.token })).json<WireFile>();
    expect(Date.parse(kept.expires_at) - Date.now()).toBeGreaterThan(86_000_000);
  });

  it("keeps secrets out of what is shown", async () => {
    const file = await aFile();
    const made = await predictionOf(await create(file.urls.get, owner.token, { key: "hush" }));
    expect(made.input).toMatchObject({ key: "[REDACTED]", image: file.urls.get });
    expect((await origin.attemptOf(made.id)).input?.["key"]).toBe("hush");
  });

  it("is the same refusal when it is another's, deleted, or never was", async () => {
    const [others, deleted] = [await aFile((await anAccount()).token), await aFile()];
    await call("DELETE", `/v1/files/${deleted.id}`, { token: owner.token });
    const never = `${PUBLIC_URL}/v1/files/${newFileId(env.SIGNING_SECRET)}`;
    const refusals = await Promise.all(
      [others.urls.get, deleted.urls.get, never, `${PUBLIC_URL}/v1/files/nonsense`].map(async (url) => {
        const { status, code, detail, invalid_fields } = await problemOf(await create(url));
        return { status, code, detail, invalid_fields };
      }),
    );
    for (const refusal of refusals) expect(refusal).toEqual(refusals[0]);
    expect(refusals[0]).toMatchObject({
      status: 422,
      code: "input.invalid",
      invalid_fields: [{ type: "file_not_found", field: "input.image" }],
    });
    const listed = await (await call("GET", "/v1/predictions", { token: owner.token })).json<{
      results: { id: string }[];
    }>();
    expect(listed.results.length).toBeLessThanOrEqual(4);
  });

  it("needs a token that may read files", async () => {
    const file = await aFile();
    const narrow = await aToken(owner.id, ["predictions:write"]);
    const problem = await problemOf(await create(file.urls.get, narrow));
    expect([problem.status, problem.invalid_fields?.[0]?.description]).toEqual([
      422,
      "This token may not read files: it lacks the scope files:read",
    ]);
  });

  it("does not change the answer to a repeat with its key, whatever became of the file", async () => {
    const file = await aFile();
    const body = { version, input: { text: "x", image: file.urls.get } };
    const headers = { "idempotency-key": "own-file" };
    const first = await call("POST", "/v1/predictions", { token: owner.token, body, headers });
    const text = await first.text();
    await call("DELETE", `/v1/files/${file.id}`, { token: owner.token });
    const again = await call("POST", "/v1/predictions", { token: owner.token, body, headers });
    expect([again.status, await again.text()]).toEqual([first.status, text]);
  });
});

describe("own files of a batch", () => {
  async function aFileOf(text: string): Promise<WireFile> {
    const head = '--b\r\nContent-Disposition: form-data; name="content"; filename="a.jsonl"';
    const answer = await call("POST", "/v1/files", {
      token: owner.token,
      bytes: new TextEncoder().encode(`${head}\r\n\r\n${text}\r\n--b--\r\n`),
      headers: { "content-type": "multipart/form-data; boundary=b" },
    });
    return answer.json();
  }
  const batch = (input_url: string) =>
    call("POST", "/v1/batches", { token: owner.token, body: { version, input_url, max_concurrency: 1 } });

  it("are its inputs, and the files among these", async () => {
    const image = await aFile();
    const lines = await aFileOf(`{"text":"one"}\n${JSON.stringify({ text: "two", image: image.urls.get })}\n`);
    const made = await batch(lines.urls.get);
    if (made.status !== 201) throw new Error(await made.text());
    const kept = await (await call("GET", `/v1/files/${image.id}`, { token: owner.token })).json<WireFile>();
    expect(Date.parse(kept.expires_at) - Date.now()).toBeGreaterThan(6 * 86_400_000);
  });

  it("are refused by name when they are not there", async () => {
    const never = `${PUBLIC_URL}/v1/files/${newFileId(env.SIGNING_SECRET)}`;
    const whole = await problemOf(await batch(never));
    expect([whole.status, whole.invalid_fields?.[0]?.field]).toEqual([422, "input_url"]);
    const line = await aFileOf(JSON.stringify({ text: "x", image: never }));
    const one = await problemOf(await batch(line.urls.get));
    expect([one.status, one.code, one.invalid_fields?.[0]?.field]).toEqual([
      422,
      "batch.invalid",
      "line 1: input.image",
    ]);
  });
});

it("tells own files from other addresses", () => {
  const base = "https://cogway.example";
  const cases: [text: string, id: string | null][] = [
    [`${base}/v1/files/abc`, "abc"],
    [`${base}/v1/files/abc?x=1`, null],
    [`${base}/v1/files/abc/download`, "abc"],
    [`${base}/v1/files/abc/download?owner=me&expiry=1&signature=s`, "abc"],
    [`${base}/v1/files/abc/download?owner=other&expiry=1&signature=s`, null],
    [`${base}/v1/files/streams/abc`, null],
    [`${base}/v1/files/`, null],
    [`${base}.evil.example/v1/files/abc`, null],
    [`https://evil.example/${base}/v1/files/abc`, null],
    [`${base}/outputs/abc/0/a.png?s=x`, null],
    ["data:text/plain,x", null],
  ];
  for (const [text, id] of cases) expect([text, ownFileId(text, base, "me")]).toEqual([text, id]);
});
