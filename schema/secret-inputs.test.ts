import { describe, expect, it } from "vitest";
import { isSecretInput, maskSecrets, REDACTED, secretTexts } from "./secret-inputs.ts";

const PROPERTIES = {
  key: { type: "string", format: "password", writeOnly: true, "x-cog-secret": true },
  keys: { type: "array", items: { type: "string", "x-cog-secret": true } },
  text: { type: "string" },
};

describe("secret inputs", () => {
  it("are Cog's secrets, and lists of them", () => {
    expect(Object.values(PROPERTIES).map(isSecretInput)).toEqual([true, true, false]);
    expect([undefined, null, [], "x-cog-secret"].map(isSecretInput)).toEqual([false, false, false, false]);
  });

  it("are masked in text, the longest first, each of a list and each line of one", () => {
    const input = { key: "line-one\nline-two", keys: ["hunter2", "hunter22"], text: "visible", other: "stranger" };
    const secrets = secretTexts(PROPERTIES, input);
    const mask = (text: string): string => maskSecrets(text, secrets);
    expect(mask("a line-one\nline-two b")).toBe(`a ${REDACTED} b`);
    expect(mask("line-two")).toBe(REDACTED);
    expect(mask("hunter22, hunter2")).toBe(`${REDACTED}, ${REDACTED}`);
    expect(mask("visible stranger")).toBe("visible stranger");
  });

  it("are left where they are as short as ordinary words", () => {
    expect(secretTexts(PROPERTIES, { key: "12345" })).toEqual([]);
    expect(maskSecrets("12345", [])).toBe("12345");
  });
});
