import { describe, expect, it } from "vitest";
import {
  bodyDigest,
  HEADER_BODY_SHA256,
  HEADER_KEY_ID,
  HEADER_NONCE,
  HEADER_SIGNATURE,
  HEADER_TIMESTAMP,
  SIGNATURE_WINDOW_MS,
  type SigningKey,
  signRequest,
  type VerifyResult,
  verifyRequest,
} from "./request-signature.ts";

const NOW = 1_800_000_000_000;
const KEY: SigningKey = { key_id: "key-1", secret: btoa("0123456789abcdef0123456789abcdef") };
const OTHER: SigningKey = { key_id: "key-2", secret: btoa("another secret of an origin 32 b") };

interface Sent {
  method: string;
  path: string;
  body?: string | Uint8Array;
  headers: Record<string, string>;
}
const REQUEST = { method: "POST", path: "/origin/v1/events?x=1", body: '{"acks":[]}' };
const signed = (key = KEY, now = NOW): Sent => ({ ...REQUEST, headers: signRequest(key, REQUEST, now) });

function verify({ headers, ...request }: Sent, now = NOW): VerifyResult {
  const secrets = new Map([KEY, OTHER].map(({ key_id, secret }) => [key_id, secret]));
  return verifyRequest({ ...request, header: (name) => headers[name] }, (id) => secrets.get(id) ?? null, now);
}

/** Every text that differs from `text` in one bit of one byte, is one shorter or one longer. */
function* mutations(text: string): Generator<string> {
  for (let at = 0; at < text.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      yield text.slice(0, at) + String.fromCharCode(text.charCodeAt(at) ^ (1 << bit)) + text.slice(at + 1);
    }
    yield text.slice(0, at) + text.slice(at + 1);
    yield `${text.slice(0, at)}0${text.slice(at)}`;
  }
  yield `${text}0`;
}

describe("verifyRequest", () => {
  it("takes what was signed, with its body or with its digest alone", () => {
    const sent = signed();
    const expected = {
      ok: true,
      key_id: "key-1",
      nonce: sent.headers[HEADER_NONCE],
      body_sha256: bodyDigest(REQUEST.body),
    };
    expect(verify(sent)).toEqual(expected);
    const { body: _, ...streamed } = sent;
    expect(verify(streamed)).toEqual(expected);
    expect(verify(signed(OTHER))).toMatchObject({ ok: true, key_id: "key-2" });
    const bytes = { method: "PUT", path: "/x", body: new Uint8Array([0, 255]) };
    expect(verify({ ...bytes, headers: signRequest(KEY, bytes, NOW) })).toMatchObject({ ok: true });
  });

  it("refuses any bit that was changed of method, path, body, time, nonce, key and signature", () => {
    const sent = signed();
    const refused = (changed: Partial<Sent>): void => {
      expect(verify({ ...sent, ...changed }).ok, JSON.stringify(changed)).toBe(false);
      tried += 1;
    };
    let tried = 0;
    for (const method of mutations(sent.method)) if (method.toUpperCase() !== "POST") refused({ method });
    for (const path of mutations(sent.path)) if (path !== sent.path) refused({ path });
    for (const body of mutations(REQUEST.body)) if (body !== REQUEST.body) refused({ body });
    for (const name of Object.keys(sent.headers)) {
      const value = sent.headers[name] ?? "";
      for (const mutation of mutations(value)) {
        // base64url has spellings that mean the same bytes: the same signature, not another one.
        const isSame =
          name === HEADER_SIGNATURE && Buffer.from(mutation, "base64url").equals(Buffer.from(value, "base64url"));
        if (mutation !== value && !isSame) refused({ headers: { ...sent.headers, [name]: mutation } });
      }
      refused({ headers: { ...sent.headers, [name]: "" } });
      const { [name]: _, ...without } = sent.headers;
      expect(verify({ ...sent, headers: without })).toEqual({ ok: false, reason: "missing" });
    }
    expect(tried).toBeGreaterThan(1_500);
  });

  it("refuses parts that were moved over their borders, and another key's name", () => {
    const one = { method: "GET", path: "/a", body: "" };
    const headers = signRequest(KEY, one, NOW);
    expect(verify({ ...one, headers }).ok).toBe(true);
    expect(verify({ ...one, method: "GET\n/a", path: "", headers }).ok).toBe(false);
    expect(verify({ ...one, headers: { ...headers, [HEADER_KEY_ID]: "key-2" } })).toEqual({
      ok: false,
      reason: "bad_signature",
    });
    expect(verify({ ...one, headers: { ...headers, [HEADER_KEY_ID]: "revoked" } })).toEqual({
      ok: false,
      reason: "unknown_key",
    });
  });

  it("refuses what is older or newer than the window, and a time that is none", () => {
    const sent = signed();
    for (const drift of [0, SIGNATURE_WINDOW_MS, -SIGNATURE_WINDOW_MS]) expect(verify(sent, NOW + drift).ok).toBe(true);
    for (const drift of [SIGNATURE_WINDOW_MS + 1, -SIGNATURE_WINDOW_MS - 1, 86_400_000]) {
      expect(verify(sent, NOW + drift)).toEqual({ ok: false, reason: "stale" });
    }
    for (const time of ["soon", "NaN", "Infinity", "-1", "1e999"]) {
      const headers = { ...sent.headers, [HEADER_TIMESTAMP]: time };
      expect(verify({ ...sent, headers })).toEqual({ ok: false, reason: "stale" });
    }
  });

  it("refuses another body, and never signs two requests alike", () => {
    const sent = signed();
    expect(verify({ ...sent, body: "{}" })).toEqual({ ok: false, reason: "bad_digest" });
    const headers = { ...sent.headers, [HEADER_BODY_SHA256]: bodyDigest("{}") };
    expect(verify({ ...sent, body: "{}", headers })).toEqual({ ok: false, reason: "bad_signature" });
    const nonces = Array.from({ length: 100 }, () => signed().headers[HEADER_NONCE]);
    expect(new Set(nonces).size).toBe(100);
  });
});
