import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SIGNATURE_WINDOW_MS, signRequest } from "../schema/request-signature.ts";
import { NonceMemory } from "./server.ts";
import { TestOrigin } from "./testing/harness.ts";

describe("the origin's server", () => {
  let origin: TestOrigin;
  let url: string;
  beforeAll(async () => {
    origin = await TestOrigin.start([]);
    url = origin.url;
  });
  afterAll(() => origin.stop());

  const path = "/v1/instances";
  const get = (headers: Record<string, string>): Promise<number> =>
    fetch(url + path, { headers }).then((answer) => answer.status);
  const sign = (change: { method?: string; path?: string } = {}, now = Date.now()): Record<string, string> =>
    signRequest(origin.edge.key, { method: "GET", path, ...change }, now);

  it("tells without a signature only that it lives", async () => {
    const health = await fetch(`${url}/healthz`).then((answer) => answer.json());
    expect(health).toEqual({ status: "ok", incarnation: origin.origin.incarnation });
    expect(await get({})).toBe(401);
  });

  it("serves a signed request once", async () => {
    const headers = sign();
    expect(await get(headers)).toBe(200);
    expect(await get(headers)).toBe(401);
  });

  it("refuses another path, another method, another key, a stale and a future time, and a changed body", async () => {
    expect(await get(sign({ path: "/v1/instances?x" }))).toBe(401);
    expect(await get(sign({ method: "POST" }))).toBe(401);
    expect(await get({ ...sign(), "cogway-key-id": "other" })).toBe(401);
    expect(await get(sign({}, Date.now() - SIGNATURE_WINDOW_MS - 1_000))).toBe(401);
    expect(await get(sign({}, Date.now() + SIGNATURE_WINDOW_MS + 1_000))).toBe(401);
    const headers = signRequest(origin.edge.key, { method: "POST", path, body: "{}" }, Date.now());
    const changed = await fetch(url + path, { method: "POST", headers, body: "{ }" });
    expect(changed.status).toBe(401);
  });

  it("refuses a body that is not of this protocol as a problem", async () => {
    const answer = await origin.edge.call("POST", path, { instance_id: "x" });
    expect(answer).toMatchObject({ status: 400, body: { code: "request.malformed" } });
  });
});

describe("the memory of nonces", () => {
  it("knows a nonce for as long as its time stamp could be accepted, and forgets it later", () => {
    const nonces = new NonceMemory();
    const start = 1_000_000_000;
    expect(nonces.isNew("a", start)).toBe(true);
    for (let t = 0; t <= 2 * SIGNATURE_WINDOW_MS; t += 5_000) {
      nonces.isNew(`other ${t}`, start + t);
      expect(nonces.isNew("a", start + t)).toBe(false);
    }
    nonces.isNew("b", start + 10 * SIGNATURE_WINDOW_MS);
    expect(nonces.isNew("a", start + 20 * SIGNATURE_WINDOW_MS)).toBe(true);
  });
});
