import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { seal, unseal } from "./sealed.ts";

describe("sealed text", () => {
  it("comes back as it was, and shows nothing of itself", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", minLength: 4 }), (text) => {
        const sealed = seal("secret", text);
        expect(unseal("secret", sealed)).toBe(Buffer.from(text).toString());
        expect(sealed).not.toContain(text);
        expect(Buffer.from(sealed.slice(7), "base64").includes(Buffer.from(text))).toBe(false);
      }),
    );
  });

  it("is read by its own secret alone, and only unchanged", () => {
    const sealed = seal("secret", "hello");
    expect(() => unseal("other", sealed)).toThrow();
    const changed = `${sealed.slice(0, -6)}${sealed.at(-6) === "A" ? "B" : "A"}${sealed.slice(-5)}`;
    expect(() => unseal("secret", changed)).toThrow();
  });

  it("reads what was never sealed", () => {
    expect(unseal("secret", '{"a":1}')).toBe('{"a":1}');
  });
});
