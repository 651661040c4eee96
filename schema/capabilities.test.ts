import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isOutputSignatureValid, outputPath, readStreamToken, streamToken } from "./capabilities.ts";
import type { FileRef } from "./origin-protocol.ts";

const SECRET = "the edge's signing secret";
const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";
const anyId = fc
  .array(fc.constantFrom(...BASE32), { minLength: 26, maxLength: 26 })
  .map((characters) => characters.join(""));

/** Every text that differs from `text` in one character: changed to each of `others`, left out, or doubled. */
function* mutations(text: string, others: string): Generator<string> {
  for (let at = 0; at <= text.length; at++) {
    const [head, tail] = [text.slice(0, at), text.slice(at + 1)];
    if (at < text.length) yield head + tail;
    for (const other of others) {
      if (other !== text[at] && at < text.length) yield head + other + tail;
      yield `${head}${other}${text.slice(at)}`;
    }
  }
}
const OTHERS = "aAbZ09-_=+/. %\n\u0000é";

describe("stream tokens", () => {
  it("open the prediction they were made for, and no token that differs in one character opens any", () => {
    fc.assert(
      fc.property(anyId, (id) => {
        expect(readStreamToken(SECRET, streamToken(SECRET, id))).toBe(id);
        expect(readStreamToken("another secret", streamToken(SECRET, id))).toBeNull();
      }),
    );
    const token = streamToken(SECRET, "a".repeat(26));
    let tried = 0;
    for (const mutation of mutations(token, OTHERS + BASE32)) {
      if (mutation === token) continue;
      tried += 1;
      expect(readStreamToken(SECRET, mutation)).toBeNull();
    }
    expect(tried).toBeGreaterThan(4_000);
  });

  it("are refused when they are anything else", () => {
    for (const text of ["", "a".repeat(26), "a".repeat(48), `${"a".repeat(26)}${"A".repeat(22)}`]) {
      expect(readStreamToken(SECRET, text)).toBeNull();
    }
    fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => readStreamToken(SECRET, text) === null));
  });
});

describe("output paths", () => {
  const file = (n: number, name: string): FileRef["$cogway_file"] => ({
    n,
    name,
    content_type: "image/png",
    size_bytes: 1,
    sha256: "0".repeat(64),
  });
  const anyName = fc.string({ unit: "grapheme", minLength: 1, maxLength: 40 });

  /** As a router takes a path apart. */
  function takeApart(path: string) {
    const url = new URL(path, "https://cogway.test");
    const [, outputs, prediction_id = "", n = "", name = "", ...more] = url.pathname.split("/");
    expect([outputs, more]).toEqual(["outputs", []]);
    const output = { prediction_id, n: Number(n), name: decodeURIComponent(name) };
    return { output, signature: url.searchParams.get("s") ?? "" };
  }

  it("are taken apart to what they were made of, whatever the file is called", () => {
    fc.assert(
      fc.property(anyId, fc.nat(), anyName, (prediction_id, n, name) => {
        // A URL parser resolves these two: the edge takes no such names.
        fc.pre(name !== "." && name !== "..");
        const { output, signature } = takeApart(outputPath(SECRET, prediction_id, file(n, name)));
        expect(output).toEqual({ prediction_id, n, name });
        expect(isOutputSignatureValid(SECRET, output, signature)).toBe(true);
        expect(isOutputSignatureValid("another secret", output, signature)).toBe(false);
      }),
    );
  });

  it("grant one file of one prediction: 10,000 changes of one character are refused", () => {
    const id = "b".repeat(26);
    const { output, signature } = takeApart(outputPath(SECRET, id, file(12, "photo:1.png")));
    let tried = 0;
    const refused = (changed: Partial<typeof output>, by = signature): void => {
      tried += 1;
      expect(isOutputSignatureValid(SECRET, { ...output, ...changed }, by)).toBe(false);
    };
    const all = OTHERS + BASE32 + BASE32.toUpperCase();
    for (const prediction_id of mutations(output.prediction_id, all))
      if (prediction_id !== id) refused({ prediction_id });
    for (const name of mutations(output.name, all)) if (name !== output.name) refused({ name });
    for (const mutation of mutations(signature, all)) if (mutation !== signature) refused({}, mutation);
    for (let n = 0; n < 1_000; n++) if (n !== output.n) refused({ n });
    // Parts cannot be moved over their borders.
    refused({ n: 1, name: "2:photo:1.png" });
    refused({ prediction_id: `${id}:12`, n: 12, name: "photo:1.png" });
    expect(tried).toBeGreaterThan(10_000);
  });
});
