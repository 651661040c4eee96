/** What origins say to the edge, and the files that they bring: signatures, idempotency, and how outputs are served. */
import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import type { PredictionApi } from "../durable-objects/prediction-contract.ts";
import { newPredictionId, predictionObjectName } from "../schema/ids.ts";
import type { FileRef } from "../schema/origin-protocol.ts";
import { bodyDigest, signRequest } from "../schema/request-signature.ts";
import { app } from "./app.ts";
import {
  anAccount,
  anAnnounce,
  aRegister,
  call,
  FakeOrigin,
  PUBLIC_URL,
  predictionOf,
  problemOf,
  theOperator,
} from "./testing/edge.ts";

let origin: FakeOrigin;
let version: string;
let token: string;

beforeAll(async () => {
  await theOperator();
  origin = await FakeOrigin.join();
  version = await origin.announce("painter", anAnnounce({}, { type: "string", format: "uri" }));
  token = (await anAccount()).token;
});

const aRunning = () => origin.aRunning(token, version);

const putPath = (id: string, n: number, name: string, attempt = 1) =>
  `/origin/v1/outputs/${id}/${attempt}/${n}/${encodeURIComponent(name)}`;

function put(
  id: string,
  n: number,
  name: string,
  bytes: Uint8Array | string,
  type: string,
  attempt = 1,
): Promise<Response> {
  const length = String(new TextEncoder().encode(String(bytes)).byteLength);
  const size = typeof bytes === "string" ? length : String(bytes.byteLength);
  return origin.send("PUT", putPath(id, n, name, attempt), bytes, { "content-type": type, "content-length": size });
}

/** Runs a prediction whose output is this file, and gives the file's address. */
async function anOutput(bytes: Uint8Array | string, type: string, name: string): Promise<string> {
  const id = await aRunning();
  const stored = await put(id, 0, name, bytes, type);
  if (stored.status !== 201) throw new Error(await stored.text());
  await origin.events(id, 1, [
    { type: "output", mode: "set", value: await stored.json<FileRef>() },
    { type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0.1 },
  ]);
  const { output } = await predictionOf(await call("GET", `/v1/predictions/${id}`, { token }));
  return String(output);
}

describe("signatures", () => {
  it("spends a join token once, and knows the origin by its key afterwards", async () => {
    const again = await call("POST", "/origin/v1/register", {
      body: aRegister({ join_token: "join-token-of-tests", incarnation: "another" }),
    });
    expect(again.status).toBe(401);
    expect((await problemOf(again)).code).toBe("origin.unauthenticated");
    expect((await call("POST", "/origin/v1/register", { body: aRegister() })).status).toBe(401);
    const back = await origin.send("POST", "/origin/v1/register", JSON.stringify(aRegister()));
    expect(back.status).toBe(200);
    expect(await back.json()).not.toHaveProperty("key");
  });

  const heartbeat = JSON.stringify({ incarnation: "first", instances: [] });
  const sendSigned = (headers: Record<string, string>, body = heartbeat) =>
    call("POST", "/origin/v1/heartbeat", { body, headers });
  const sign = (now = Date.now(), key = origin.key, path = "/origin/v1/heartbeat") =>
    signRequest(key, { method: "POST", path, body: heartbeat }, now);

  it("hears a signed heartbeat", async () => {
    expect(await (await sendSigned(sign())).json()).toMatchObject({ known: true });
  });

  it.each<[string, () => Promise<Response>]>([
    ["no signature", () => sendSigned({})],
    ["an old one", () => sendSigned(sign(Date.now() - 61_000))],
    ["one of the future", () => sendSigned(sign(Date.now() + 61_000))],
    ["another key's", () => sendSigned(sign(Date.now(), { ...origin.key, secret: btoa("x".repeat(32)) }))],
    ["an unknown key's", () => sendSigned(sign(Date.now(), { ...origin.key, key_id: "nobody" }))],
    ["one for another path", () => sendSigned(sign(Date.now(), origin.key, "/origin/v1/events"))],
    ["one for another body", () => sendSigned(sign(), heartbeat.replace("first", "other"))],
    ["a token of an account", () => call("POST", "/origin/v1/heartbeat", { token, body: heartbeat })],
  ])("refuses %s", async (_what, send) => {
    const answer = await send();
    expect(answer.status).toBe(401);
    expect((await problemOf(answer)).code).toBe("origin.unauthenticated");
  });
});

describe("events", () => {
  it("acknowledges what is stored, however often it is sent, and knows no others", async () => {
    const id = await aRunning();
    const output = { type: "output", mode: "set", value: "x" } as const;
    expect(await origin.events(id, 1, [output])).toEqual([
      { prediction_id: id, attempt: 1, through_i: 1, outcome: "stored" },
    ]);
    expect(await origin.events(id, 1, [output])).toEqual([
      { prediction_id: id, attempt: 1, through_i: 1, outcome: "stored" },
    ]);
    expect((await origin.events("a".repeat(26), 0, [output]))[0]?.outcome).toBe("unknown");
  });

  it("asks again only for the part of an object that fails", async () => {
    const [broken, whole] = ["a", "b"].map((object) => anIdIn(object));
    const attempts = [broken, whole].map((id) => ({
      prediction_id: id,
      attempt: 1,
      events: [{ type: "started", i: 0, t_ms: 0 }],
    }));
    const applyEvents: PredictionApi["applyEvents"] = async (batches) => {
      if (batches.some((batch) => batch.prediction_id === broken)) throw new Error("storage is away");
      return batches.map(({ prediction_id, attempt }) => ({ prediction_id, attempt, through_i: 0, outcome: "stored" }));
    };
    const body = JSON.stringify({ protocol: 1, attempts, instances: [] });
    const path = "/origin/v1/events";
    const headers = {
      "content-type": "application/json",
      ...signRequest(origin.key, { method: "POST", path, body }, Date.now()),
    };
    const context = createExecutionContext();
    const bindings = { ...env, PREDICTIONS: { getByName: () => ({ applyEvents }) } } as unknown as Env;
    const answer = await app.fetch(
      new Request(PUBLIC_URL + path, { method: "POST", headers, body }),
      bindings,
      context,
    );
    await waitOnExecutionContext(context);
    const { acks } = await answer.json<{ acks: { prediction_id: string; outcome: string }[] }>();
    expect(new Map(acks.map((ack) => [ack.prediction_id, ack.outcome]))).toEqual(
      new Map([
        [broken, "retry"],
        [whole, "stored"],
      ]),
    );
  });

  it("refuses a batch of another protocol", async () => {
    const answer = await origin.send(
      "POST",
      "/origin/v1/events",
      JSON.stringify({ protocol: 2, attempts: [], instances: [] }),
    );
    expect(answer.status).toBe(422);
  });
});

function anIdIn(object: string): string {
  for (;;) {
    const id = newPredictionId(env.SIGNING_SECRET, 8);
    if (predictionObjectName(id) === object) return id;
  }
}

describe("output files", () => {
  it("keeps what a live attempt sends, and answers a repeat alike", async () => {
    const id = await aRunning();
    const first = await put(id, 0, "out put.png", "png bytes", "image/png");
    expect(first.status).toBe(201);
    const ref = {
      $cogway_file: {
        n: 0,
        name: "out put.png",
        content_type: "image/png",
        size_bytes: 9,
        sha256: bodyDigest("png bytes"),
      },
    };
    expect(await first.json()).toEqual(ref);
    expect(await (await put(id, 0, "out put.png", "png bytes", "image/png")).json()).toEqual(ref);
    expect(await (await env.FILES.get(`outputs/${id}/0/out put.png`))?.text()).toBe("png bytes");
  });

  it("keeps an empty file", async () => {
    const id = await aRunning();
    expect((await put(id, 0, "empty.txt", "", "text/plain")).status).toBe(201);
    expect((await env.FILES.head(`outputs/${id}/0/empty.txt`))?.size).toBe(0);
  });

  it("refuses other bytes than those that were signed", async () => {
    const id = await aRunning();
    const path = putPath(id, 0, "x.txt");
    const headers = { "content-type": "text/plain", "content-length": "5" };
    const answer = await origin.send("PUT", path, "other", headers, bodyDigest("bytes"));
    expect(answer.status).toBe(400);
    expect(await env.FILES.head(`outputs/${id}/0/x.txt`)).toBeNull();
  });

  it("refuses attempts that are over or never were", async () => {
    const id = await aRunning();
    expect((await put(id, 0, "x.txt", "x", "text/plain", 2)).status).toBe(409);
    await origin.events(id, 1, [{ type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0 }]);
    expect((await problemOf(await put(id, 0, "x.txt", "x", "text/plain"))).code).toBe("attempt.fenced");
    expect((await put("a".repeat(26), 0, "x.txt", "x", "text/plain")).status).toBe(409);
  });

  it.each(["../x", "..", "a/b", "a\\b", "a\nb"])("refuses the name %j", async (name) => {
    const id = await aRunning();
    const answer = await put(id, 0, name, "x", "text/plain");
    expect([400, 404]).toContain(answer.status);
    expect((await env.FILES.list({ prefix: `outputs/${id}/` })).objects).toEqual([]);
  });

  it("gives inputs to origins alone, of predictions that live", async () => {
    const id = await aRunning();
    expect(await (await origin.send("GET", `/origin/v1/inputs/${id}`)).json()).toMatchObject({ text: "x" });
    expect((await call("GET", `/origin/v1/inputs/${id}`, { token })).status).toBe(401);
    expect((await origin.send("GET", `/origin/v1/inputs/${anIdIn("c")}`)).status).toBe(404);
  });
});

describe("output addresses", () => {
  it("serve the file to anyone, the second time from the cache", async () => {
    const url = await anOutput("0123456789", "image/png", "picture one.png");
    expect(url).toMatch(new RegExp(`^${PUBLIC_URL}/outputs/[a-z2-7]{26}/0/picture%20one\\.png\\?s=`));
    const first = await call("GET", url, { headers: { origin: "https://elsewhere.example" } });
    expect(first.status).toBe(200);
    expect(Object.fromEntries(first.headers)).toMatchObject({
      "content-type": "image/png",
      "content-length": "10",
      "accept-ranges": "bytes",
      "cache-control": "public, max-age=3600",
      "x-content-type-options": "nosniff",
      "x-cogway-cache": "MISS",
      "access-control-allow-origin": "*",
    });
    expect(first.headers.get("etag")).toMatch(/^"[^"]+"$/);
    expect(await first.text()).toBe("0123456789");
    const second = await call("GET", url);
    expect(second.headers.get("x-cogway-cache")).toBe("HIT");
    expect(second.headers.get("content-length")).toBe("10");
    expect(await second.text()).toBe("0123456789");
  });

  it("serve ranges, from storage and from the cache alike", async () => {
    const url = await anOutput("0123456789", "audio/wav", "sound.wav");
    for (const [range, part, contentRange] of [
      ["bytes=2-4", "234", "bytes 2-4/10"],
      ["bytes=7-", "789", "bytes 7-9/10"],
      ["bytes=-2", "89", "bytes 8-9/10"],
      ["bytes=5-99", "56789", "bytes 5-9/10"],
    ] as const) {
      const answer = await call("GET", url, { headers: { range } });
      expect([answer.status, await answer.text(), answer.headers.get("content-range")]).toEqual([
        206,
        part,
        contentRange,
      ]);
      expect(answer.headers.get("content-length")).toBe(String(part.length));
    }
    const beyond = await call("GET", url, { headers: { range: "bytes=10-" } });
    expect(beyond.status).toBe(416);
    expect(beyond.headers.get("content-range")).toBe("bytes */10");
    expect((await call("GET", url, { headers: { range: "bytes=0-1,4-5" } })).status).toBe(200);
    const stale = await call("GET", url, { headers: { range: "bytes=0-1", "if-range": '"other"' } });
    expect(stale.status).toBe(200);
  });

  it("answer 304 to who has it, and nothing but headers to HEAD", async () => {
    const url = await anOutput("bytes", "image/png", "a.png");
    const etag = (await call("GET", url)).headers.get("etag") ?? "";
    const same = await call("GET", url, { headers: { "if-none-match": `"x", ${etag}` } });
    expect([same.status, await same.text(), same.headers.get("etag")]).toEqual([304, "", etag]);
    const head = await call("HEAD", url);
    expect([head.status, head.headers.get("content-length"), await head.text()]).toEqual([200, "5", ""]);
  });

  it.each(["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml"])(
    "never show %s in place",
    async (type) => {
      const answer = await call("GET", await anOutput("<script>alert(1)</script>", type, "page"));
      expect(answer.headers.get("content-disposition")).toBe("attachment");
      expect(answer.headers.get("content-security-policy")).toContain("sandbox");
    },
  );

  it("are refused when any character is another", async () => {
    const url = new URL(await anOutput("bytes", "image/png", "b.png"));
    const text = url.pathname + url.search;
    for (let at = "/outputs/".length; at < text.length; at++) {
      const other = text[at] === "a" ? "b" : "a";
      const answer = await call("GET", text.slice(0, at) + other + text.slice(at + 1));
      expect(answer.status).toBe(404);
      await answer.body?.cancel();
    }
    expect((await call("GET", url.pathname)).status).toBe(404);
  });

  it("end with the data, also those that the cache still has", async () => {
    const url = await anOutput("bytes", "image/png", "c.png");
    await (await call("GET", url)).text();
    await env.FILES.delete(decodeURIComponent(new URL(url).pathname.slice(1)));
    const gone = await call("GET", url);
    expect(gone.status).toBe(404);
    expect((await problemOf(gone)).code).toBe("output.not_found");
  });
});
