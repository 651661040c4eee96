import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  isPredictionId,
  newId,
  newPredictionId,
  PREDICTION_ID_LENGTH,
  PREDICTION_POOL_MAX,
  parseModelReference,
  predictionObjectName,
} from "./ids.ts";

const SECRET = "secret";
const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";

describe("prediction ids", () => {
  it("are known again, spread over their pool, and never come twice", () => {
    const ids = new Set<string>();
    const objects = new Map<string, number>();
    for (let n = 0; n < 2_000; n++) {
      const id = newPredictionId(SECRET, 8);
      expect(id).toMatch(/^[a-z2-7]{26}$/);
      expect(isPredictionId(id, SECRET)).toBe(true);
      expect(isPredictionId(id, "another secret")).toBe(false);
      ids.add(id);
      objects.set(predictionObjectName(id), (objects.get(predictionObjectName(id)) ?? 0) + 1);
    }
    expect(ids.size).toBe(2_000);
    expect([...objects.keys()].sort().join("")).toBe(BASE32.slice(0, 8));
    // 250 are expected of each; seven standard deviations are 104.
    for (const count of objects.values()) expect(Math.abs(count - 250)).toBeLessThan(110);
  });

  it("keep to the pool's bounds", () => {
    for (const [size, objects] of [
      [0, 1],
      [1, 1],
      [PREDICTION_POOL_MAX, 32],
      [1_000, 32],
    ] as const) {
      const names = new Set<string>();
      for (let first = 0; first < 256; first++) {
        const id = newPredictionId(SECRET, size, Uint8Array.from([first, ...Array<number>(20).fill(7)]));
        names.add(predictionObjectName(id));
      }
      expect(names.size).toBe(objects);
    }
  });

  it("carry 100 random bits: each bit of them makes another id", () => {
    const random = new Uint8Array(21);
    const ids = new Set<string>();
    for (let bit = 8; bit < 108; bit++) {
      const changed = Uint8Array.from(random, (byte, at) => (at === bit >> 3 ? byte ^ (128 >> (bit & 7)) : byte));
      ids.add(newPredictionId(SECRET, 8, changed));
    }
    expect(ids.size).toBe(100);
  });

  it("are refused after any change of a character", () => {
    const refused = (text: string): void => expect(isPredictionId(text, SECRET), text).toBe(false);
    for (let n = 0; n < 5; n++) {
      const id = newPredictionId(SECRET, 32);
      for (let at = 0; at < PREDICTION_ID_LENGTH; at++) {
        const [head, own, tail] = [id.slice(0, at), id[at] ?? "", id.slice(at + 1)];
        refused(head + tail);
        refused(`${head}a${own}${tail}`);
        if (own >= "a") refused(head + own.toUpperCase() + tail);
        for (const other of "189_-/%\n é\u0000") refused(head + other + tail);
      }
    }
    // 25 check bits let one of 33 million guesses pass: with this id, none of its 806 neighbours.
    const id = newPredictionId(SECRET, 8, new Uint8Array(21));
    for (let at = 0; at < PREDICTION_ID_LENGTH; at++) {
      for (const other of BASE32) if (other !== id[at]) refused(id.slice(0, at) + other + id.slice(at + 1));
    }
    for (const text of ["", `${id}\n`, `${id} `, id.slice(1), `${id}a`]) refused(text);
    fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => !isPredictionId(text, SECRET)));
  });
});

describe("newId", () => {
  it("has the length that was asked for, of base32 characters", () => {
    for (const length of [1, 8, 10, 26]) expect(newId(length)).toMatch(new RegExp(`^[a-z2-7]{${length}}$`));
    expect(new Set(Array.from({ length: 1_000 }, () => newId())).size).toBe(1_000);
  });
});

describe("parseModelReference", () => {
  const version = "0123456789abcdef".repeat(4);
  it.each([
    [version, { kind: "version", version }],
    ["cogway/test", { kind: "model", owner: "cogway", name: "test" }],
    ["a/b.c_d-e", { kind: "model", owner: "a", name: "b.c_d-e" }],
    [`cogway/test:${version}`, { kind: "model_version", owner: "cogway", name: "test", version }],
    ["cogway/test:v1:2", { kind: "model_version", owner: "cogway", name: "test", version: "v1:2" }],
  ])("takes %s", (text, reference) => {
    expect(parseModelReference(text)).toEqual(reference);
  });

  it.each(["", "test", "/", "a/", "/b", "a/b/c", "A/b", "a/-b", "a/b-", "a b/c", `${version}a`, "a/../b", "a/b\n"])(
    "takes no %j",
    (text) => {
      expect(parseModelReference(text)).toBeNull();
    },
  );
});
