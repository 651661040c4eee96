/** The pure parts: what inputs, headers, cursors and ranges mean. */
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import { z } from "zod";
import { aDocument } from "../../durable-objects/testing/harness.ts";
import { PredictionSchema } from "../../schema/api/predictions.ts";
import { parseDuration } from "../../schema/durations.ts";
import { AppError } from "../../schema/problems.ts";
import { settingsOf } from "../env.ts";
import { exceedsDepth } from "../middleware/json-body.ts";
import { Memo } from "../storage/memo.ts";
import { parseCancelAfter, parseIdempotencyKey, parsePrefer, parsePriority } from "./create-headers.ts";
import { decodeCursor, encodeCursor, pageUrl } from "./cursors.ts";
import { matchesEtag, parseRange } from "./http-range.ts";
import { showPrediction } from "./show-prediction.ts";
import { faultsDetail, outputKind, validateInput } from "./validate-input.ts";

let versions = 0;
function validate(properties: Record<string, unknown>, input: unknown, required: string[] = [], more: object = {}) {
  versions += 1;
  const Input = { type: "object", properties, required, ...more };
  return validateInput(
    `version ${versions}`,
    { components: { schemas: { Input, Color: { enum: ["red", "blue"] } } } },
    input,
  );
}
function faultsOf(result: ReturnType<typeof validateInput>): string[] {
  return result.ok ? [] : result.faults.map((fault) => `${fault.type} ${fault.field}`);
}

describe("inputs", () => {
  it.each<[string, Record<string, unknown>, unknown, string[]]>([
    ["too small", { n: { type: "integer", minimum: 1 } }, { n: 0 }, ["number_gte input.n"]],
    ["too large", { n: { type: "number", maximum: 1 } }, { n: 1.5 }, ["number_lte input.n"]],
    ["no integer", { n: { type: "integer" } }, { n: 1.5 }, ["invalid_type input.n"]],
    ["no number", { n: { type: "number" } }, { n: "1" }, ["invalid_type input.n"]],
    ["not of an enum", { c: { allOf: [{ $ref: "#/components/schemas/Color" }] } }, { c: "x" }, ["enum input.c"]],
    ["too short", { s: { type: "string", minLength: 2 } }, { s: "" }, ["string_gte input.s"]],
    ["not of a pattern", { s: { type: "string", pattern: "^a+$" } }, { s: "b" }, ["pattern input.s"]],
    ["too many items", { l: { type: "array", items: {}, maxItems: 1 } }, { l: [1, 2] }, ["array_max_items input.l"]],
    ["a bad item", { l: { type: "array", items: { type: "string" } } }, { l: ["a", 2] }, ["invalid_type input.l.1"]],
    ["null for a required one", { s: { type: "string" } }, { s: null }, ["invalid_type input.s"]],
    ["none of a union", { u: { anyOf: [{ type: "string" }, { type: "null" }] } }, { u: 1 }, ["any_of input.u"]],
    ["no file", { f: { type: "string", format: "uri" } }, { f: "photo.png" }, ["format input.f"]],
    [
      "no file in a list",
      { f: { type: "array", items: { type: "string", format: "uri" } } },
      { f: ["x"] },
      ["format input.f.0"],
    ],
  ])("%s", (_what, properties, input, faults) => {
    const required = Object.keys(properties);
    const result = validate(properties, input, required);
    expect(faultsOf(result)).toEqual(faults);
  });

  it("names everything that is missing", () => {
    const result = validate({ a: { type: "string" }, b: { type: "string" } }, {}, ["a", "b"]);
    expect(result).toEqual({
      ok: false,
      faults: [
        { type: "required", field: "input", description: "a is required" },
        { type: "required", field: "input", description: "b is required" },
      ],
    });
    expect(faultsDetail(result.ok ? [] : result.faults)).toBe("- input: a is required\n- input: b is required\n");
  });

  it("fills defaults, takes null for what is optional, and drops what is unknown with a line", () => {
    const properties = {
      a: { type: "string", default: "x" },
      b: { type: "string", nullable: true },
      c: { type: "integer" },
    };
    const result = validate(properties, { b: null, c: null, d: 1 });
    expect(result).toMatchObject({ ok: true, input: { a: "x" }, shown_input: null });
    expect(result.ok && result.log_lines).toEqual(['Input "d" is not an input of this model and was ignored.']);
  });

  it("keeps unknown members where the model takes any", () => {
    expect(validate({}, { d: 1 }, [], { additionalProperties: true })).toMatchObject({
      input: { d: 1 },
      log_lines: [],
    });
  });

  it.each([
    "https://example.com/a.png",
    "http://example.com/a.png?x=1",
    "data:image/png;base64,iVBORw0KGgo=",
    "data:text/plain;charset=utf-8,hello%20world",
    "data:,x",
  ])("takes the file %s", (file) => {
    expect(validate({ f: { type: "string", format: "uri" } }, { f: file }).ok).toBe(true);
  });

  it.each([
    "ftp://x/y",
    "file:///etc/passwd",
    "https://user:pw@example.com/",
    "data:image/png;base64,not base64!",
    "https://",
  ])("takes no file %s", (file) => {
    expect(validate({ f: { type: "string", format: "uri" } }, { f: file }).ok).toBe(false);
  });

  it("shows secrets to nobody", () => {
    const result = validate(
      { k: { type: "string", "x-cog-secret": true }, t: { type: "string" } },
      { k: "s3cret", t: "t" },
    );
    expect(result).toMatchObject({ input: { k: "s3cret", t: "t" }, shown_input: { k: "[REDACTED]", t: "t" } });
  });

  it("changes no prototype and survives any input", () => {
    const evil = JSON.parse('{"__proto__":{"polluted":true},"constructor":1}') as unknown;
    validate({ s: { type: "string" } }, evil, [], { additionalProperties: true });
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
    fc.assert(
      fc.property(fc.jsonValue(), (input) => {
        const result = validate({ s: { type: "string" }, n: { type: "integer", minimum: 0 } }, input, ["s"]);
        if (result.ok) expect(typeof result.input["s"]).toBe("string");
        else expect(result.faults.length).toBeGreaterThan(0);
      }),
    );
  });

  it("knows from the schema how output comes", () => {
    const kindOf = (Output: unknown) => outputKind({ components: { schemas: { Output } } });
    expect(kindOf({ type: "string" })).toEqual({ is_iterator: false, stream_kind: "text" });
    expect(kindOf({ type: "string", format: "uri" })).toEqual({ is_iterator: false, stream_kind: "files" });
    const iterator = { type: "array", "x-cog-array-type": "iterator" };
    expect(kindOf({ ...iterator, items: { type: "string" } })).toEqual({ is_iterator: true, stream_kind: "text" });
    expect(kindOf({ ...iterator, items: { type: "string", format: "uri" } })).toEqual({
      is_iterator: true,
      stream_kind: "files",
    });
  });
});

describe("headers", () => {
  it.each([
    [undefined, 0, null],
    ["wait", 59_750, "wait"],
    ["wait=5", 5_000, "wait=5"],
    ["wait=2.5", 2_500, "wait=2.5"],
    ["wait=120", 59_750, "wait=60"],
    ["respond-async", 0, "respond-async"],
    ["respond-async, wait=10", 10_000, "wait=10"],
    ["Wait = 3; foo", 3_000, "wait=3"],
    ["return=minimal", 0, null],
    ["wait=soon", 0, null],
  ])("Prefer: %s", (header, wait_ms, applied) => {
    expect(parsePrefer(header)).toEqual({ wait_ms, applied });
  });

  it.each([
    ["5", 5_000],
    ["90s", 90_000],
    ["1h30m45s", 5_445_000],
    ["24h", 86_400_000],
    ["1d", 86_400_000],
  ])("Cancel-After: %s", (header, ms) => {
    expect(parseCancelAfter(header)).toBe(ms);
  });

  it("Cogway-Priority is normal, low, or refused", () => {
    expect([undefined, "normal", " Low "].map(parsePriority)).toEqual([0, 0, 1]);
    expect(() => parsePriority("high")).toThrow("normal or low");
  });

  it.each(["4", "86401", "-5", "", "1m1h", "1.5h", "abc"])("Cancel-After refuses %j", (header) => {
    expect(() => parseCancelAfter(header)).toThrow(AppError);
  });

  it("takes a key quoted and bare for the same", () => {
    expect(parseIdempotencyKey(undefined)).toBeNull();
    expect(parseIdempotencyKey('"a b"')).toBe("a b");
    expect(parseIdempotencyKey("a b")).toBe("a b");
    expect(parseIdempotencyKey('"a\\"b"')).toBe('a"b');
    expect(parseIdempotencyKey("k".repeat(255))).toHaveLength(255);
    expect(() => parseIdempotencyKey("k".repeat(256))).toThrow(AppError);
    expect(() => parseIdempotencyKey('""')).toThrow(AppError);
  });

  it("reads durations", () => {
    expect(parseDuration("7d")).toBe(604_800_000);
    expect(parseDuration("0s")).toBe(0);
    expect(parseDuration("1w")).toBeNull();
  });
});

describe("cursors", () => {
  const Position = z.object({ offset: z.number() });
  it("come back as they were, and nothing else is one", () => {
    expect(decodeCursor(encodeCursor({ offset: 3 }), Position)).toEqual({ offset: 3 });
    expect(decodeCursor(undefined, Position)).toBeNull();
    fc.assert(
      fc.property(fc.string(), (text) => {
        expect(() => decodeCursor(text, Position)).toThrow(AppError);
      }),
    );
  });

  it("keep the filters of the page", () => {
    const url = new URL(
      pageUrl("https://x.test", "/v1/models", { sort_by: "a&b", cursor: "old" }, { offset: 1 }) ?? "",
    );
    expect(url.searchParams.get("sort_by")).toBe("a&b");
    expect(decodeCursor(url.searchParams.get("cursor") ?? "", Position)).toEqual({ offset: 1 });
    expect(pageUrl("https://x.test", "/", {}, null)).toBeNull();
  });
});

describe("ranges", () => {
  it("never reach beyond the file", () => {
    const bound = fc.option(fc.nat({ max: 200 }), { nil: undefined });
    fc.assert(
      fc.property(bound, bound, fc.nat({ max: 100 }), (first, last, size) => {
        const range = parseRange(`bytes=${first ?? ""}-${last ?? ""}`, size);
        if (range.kind !== "part") return;
        expect(range.length).toBeGreaterThan(0);
        expect(range.offset + range.length).toBeLessThanOrEqual(size);
      }),
    );
  });

  it.each([
    ["bytes=0-0", { kind: "part", offset: 0, length: 1 }],
    ["bytes=-3", { kind: "part", offset: 7, length: 3 }],
    ["bytes=-0", { kind: "unsatisfiable" }],
    ["bytes=10-", { kind: "unsatisfiable" }],
    ["bytes=5-2", { kind: "whole" }],
    ["bytes=0-1,3-4", { kind: "whole" }],
    ["items=0-1", { kind: "whole" }],
    ["bytes=a-b", { kind: "whole" }],
    [undefined, { kind: "whole" }],
  ])("%s of ten bytes", (header, range) => {
    expect(parseRange(header, 10)).toEqual(range);
  });

  it("compare entity tags weakly", () => {
    expect(matchesEtag('W/"a", "b"', '"a"')).toBe(true);
    expect(matchesEtag("*", '"a"')).toBe(true);
    expect(matchesEtag('"ab"', '"a"')).toBe(false);
    expect(matchesEtag(undefined, '"a"')).toBe(false);
  });
});

describe("what is shown", () => {
  const edge = { env, settings: settingsOf(env), later: () => {} };
  it.each([
    ["replicate-javascript/1.4.0", "canceled"],
    ["replicate-python/1.0.7", "canceled"],
    ["replicate-python/2.0.0", "aborted"],
    ["curl/8.0", "aborted"],
    [undefined, "aborted"],
  ])("an aborted prediction is to %s %s", (userAgent, status) => {
    expect(showPrediction(edge, aDocument({ state: "aborted" }), { userAgent }).status).toBe(status);
  });

  it("has no member beside the schema's own and the extra ones", () => {
    const shown = showPrediction(edge, aDocument());
    const known = new Set(Object.keys(PredictionSchema.shape));
    expect(Object.keys(shown).filter((name) => !known.has(name))).toEqual([]);
    expect(JSON.stringify(shown)).not.toContain("account_id");
  });
});

describe("the memory of catalog rows", () => {
  afterEach(() => vi.useRealTimers());
  it("serves the young, renews the older behind the answer, and never serves the old", async () => {
    vi.useFakeTimers({ now: 0, toFake: ["Date"] });
    const memo = new Memo<number>(1_000, 2);
    let value = 1;
    const behind: Promise<unknown>[] = [];
    const read = (key = "a") =>
      memo.get(
        key,
        async () => value,
        (work) => void behind.push(work),
      );
    expect(await read()).toBe(1);
    value = 2;
    vi.setSystemTime(400);
    expect(await read()).toBe(1);
    expect(behind).toHaveLength(0);
    vi.setSystemTime(600);
    expect(await Promise.all([read(), read()])).toEqual([1, 1]);
    expect(behind).toHaveLength(1);
    await Promise.all(behind);
    expect(await read()).toBe(2);
    value = 3;
    vi.setSystemTime(1_700);
    expect(await read()).toBe(3);
    value = 4;
    await Promise.all([read("b"), read("c")]);
    expect(await read()).toBe(4);
  });

  it("reads anew what does not suffice, however young", async () => {
    const memo = new Memo<string[]>(1_000, 2);
    let value = ["old"];
    const read = (wanted: string) =>
      memo.get(
        "a",
        async () => value,
        () => undefined,
        (known) => known.includes(wanted),
      );
    await read("old");
    value = ["old", "new"];
    expect(await read("old")).toEqual(["old"]);
    expect(await read("new")).toEqual(["old", "new"]);
  });
});

it("measures the depth of JSON without being fooled by strings", () => {
  expect(exceedsDepth('[[["[[[[\\"[[[["]]]', 3)).toBe(false);
  expect(exceedsDepth("[[[[]]]]", 3)).toBe(true);
  expect(exceedsDepth('{"a":{"b\\\\":[1]}}', 3)).toBe(false);
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const depthOf = (node: unknown): number =>
        typeof node === "object" && node !== null ? 1 + Math.max(0, ...Object.values(node).map(depthOf)) : 0;
      const text = JSON.stringify(value);
      expect(exceedsDepth(text, depthOf(value))).toBe(false);
      if (depthOf(value) > 0) expect(exceedsDepth(text, depthOf(value) - 1)).toBe(true);
    }),
  );
});
