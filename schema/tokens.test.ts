import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hashToken, isTokenWellFormed, newToken } from "./tokens.ts";

const BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

describe("tokens", () => {
  it("are well formed, never equal, and stored as a hash that does not hold them", () => {
    const tokens = Array.from({ length: 1_000 }, newToken);
    for (const token of tokens) {
      expect(token).toMatch(/^cw_[0-9A-Za-z]{36}$/);
      expect(isTokenWellFormed(token)).toBe(true);
      expect(hashToken(token)).toMatch(/^[0-9a-f]{64}$/);
    }
    expect(new Set(tokens).size).toBe(1_000);
  });

  it("have the checksum of zip: CRC32 in base62, padded to six", () => {
    // Computed by zlib.
    expect(isTokenWellFormed(`cw_${"0".repeat(30)}2C8GjS`)).toBe(true);
    expect(isTokenWellFormed(`cw_${"A".repeat(27)}30100C542`)).toBe(true);
    expect(isTokenWellFormed(`cw_${"A".repeat(27)}301C54200`)).toBe(false);
  });

  it("are refused without a look-up after any change of one character: no CRC32 misses one", () => {
    for (let n = 0; n < 3; n++) {
      const token = newToken();
      for (let at = 0; at < token.length; at++) {
        const [head, tail] = [token.slice(0, at), token.slice(at + 1)];
        expect(isTokenWellFormed(head + tail)).toBe(false);
        for (const other of `${BASE62}_- \n\u0000é`) {
          if (other !== token[at]) expect(isTokenWellFormed(head + other + tail)).toBe(false);
          expect(isTokenWellFormed(`${head}${other}${token.slice(at)}`)).toBe(false);
        }
      }
    }
  });

  it("are refused when they are anything else", () => {
    for (const text of ["", "cw_", "r8_abc", newToken().toUpperCase(), ` ${newToken()}`, `${newToken()}\n`]) {
      expect(isTokenWellFormed(text)).toBe(false);
    }
    fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => !isTokenWellFormed(text)));
    const anyShape = fc
      .array(fc.constantFrom(...BASE62), { minLength: 36, maxLength: 36 })
      .map((characters) => `cw_${characters.join("")}`);
    fc.assert(fc.property(anyShape, (text) => !isTokenWellFormed(text)));
  });
});
