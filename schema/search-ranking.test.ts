import { describe, expect, it } from "vitest";
import {
  editDistance,
  hasPhrase,
  match,
  plain,
  quantise,
  queryWords,
  standing,
  typosAllowed,
  VECTOR_DIMENSIONS,
  Vocabulary,
  words,
  wordWeight,
} from "./search-ranking.ts";
import { phrasesOf, TASK_PHRASES, tasksOf } from "./search-tasks.ts";

const HEALTHY = { has_version: true, is_warm: false, is_failing: false };

describe("words", () => {
  it("drops case, accents and signs, in any script", () => {
    expect(words("Café-Müsli: 4× GRÖSSER, 日本語 한국어!")).toEqual([
      "cafe",
      "musli",
      "4",
      "grosser",
      "日本語",
      "한국어",
    ]);
  });

  it("leaves out what tells nothing, unless there is nothing else", () => {
    expect(queryWords("I need a model that can remove the background of the background")).toEqual([
      "remove",
      "background",
    ]);
    expect(queryWords("the who")).toEqual(["the", "who"]);
    expect(queryWords("…")).toEqual([]);
  });
});

describe("mistyped words", () => {
  it.each([
    ["speach", "speech", 1],
    ["vidoe", "video", 1],
    ["transcrib", "transcribe", 1],
    ["bakgrond", "background", 2],
    ["same", "same", 0],
    ["photo", "audio", 3],
  ])("counts edits between %s and %s", (a, b, distance) => {
    expect(editDistance(a, b, 2)).toBe(distance);
    expect(editDistance(b, a, 2)).toBe(distance);
  });

  it("stands for the nearest words, and for none where it is short or has digits", () => {
    const vocabulary = new Vocabulary(["speech", "spell", "peach", "speed", "upscale"]);
    expect(vocabulary.similar("speach")).toEqual(["speech", "peach"]);
    expect(vocabulary.similar("upscael")).toEqual(["upscale"]);
    vocabulary.add("xylophone");
    expect(vocabulary.similar("xylofone")).toEqual(["xylophone"]);
    expect(vocabulary.similar("xyz")).toEqual([]);
    expect(typosAllowed("4x16")).toBe(0);
  });
});

describe("weights", () => {
  it("weighs a word the more the fewer documents have it, and never below zero", () => {
    expect(wordWeight(1_000, 1)).toBeGreaterThan(wordWeight(1_000, 100));
    expect(wordWeight(6, 6)).toBeGreaterThan(0);
    expect(wordWeight(0, 0)).toBeGreaterThan(0);
  });
});

describe("a match", () => {
  const best = { text: 17, text_max: 10, has_phrase: false, cosine: null };

  it("goes by words alone where there is no vector, and by both where there is", () => {
    expect(match(best)).toBe(1);
    expect(match({ ...best, cosine: 0 })).toBeLessThan(match({ ...best, cosine: 0.4 }));
    expect(match({ ...best, text: 0, cosine: 0.6 })).toBeGreaterThan(0.4);
    expect(match({ ...best, text: 0, text_max: 0 })).toBe(0);
  });

  it("is better where a tag stands in the query word for word", () => {
    expect(hasPhrase(plain("I want text to speech"), "Text to speech")).toBe(true);
    expect(hasPhrase(plain("speech to text"), "Text to speech")).toBe(false);
    expect(hasPhrase(plain("speech"), "speech")).toBe(false);
    expect(match({ ...best, has_phrase: true })).toBeGreaterThan(match(best));
  });
});

describe("standing", () => {
  it("lifts what is used and warm, and lowers what cannot run", () => {
    expect(standing(1_000_000, HEALTHY)).toBeGreaterThan(standing(10, HEALTHY));
    expect(standing(0, { ...HEALTHY, is_warm: true })).toBeGreaterThan(standing(0, HEALTHY));
    expect(standing(0, { ...HEALTHY, has_version: false })).toBeLessThan(standing(0, HEALTHY));
    expect(standing(0, { ...HEALTHY, is_failing: true })).toBeLessThan(standing(0, HEALTHY));
  });

  it("never lifts a poor match over a good one", () => {
    const poor = match({ text: 3, text_max: 10, has_phrase: false, cosine: null });
    const good = match({ text: 7, text_max: 10, has_phrase: false, cosine: null });
    const worst = standing(0, { has_version: false, is_warm: false, is_failing: true });
    expect(poor * standing(1e9, { ...HEALTHY, is_warm: true })).toBeLessThan(good * worst);
  });
});

describe("vectors", () => {
  it("keep their direction as int8, and are refused when they are none", () => {
    const vector = Array.from({ length: VECTOR_DIMENSIONS }, (_, i) => Math.sin(i) / 20);
    const small = quantise(vector);
    const dot = vector.reduce((sum, part, i) => sum + part * (small?.[i] ?? 0), 0);
    const norm = (parts: Iterable<number>) => Math.hypot(...parts);
    expect(dot / (norm(vector) * norm(small ?? []))).toBeGreaterThan(0.999);
    expect(quantise(vector.slice(1))).toBeNull();
    expect(quantise(vector.fill(Number.NaN))).toBeNull();
    expect(quantise(vector.fill(0))).toBeNull();
  });
});

describe("tasks", () => {
  it("are named by tags and titles, whole words alone", () => {
    expect(phrasesOf(tasksOf(["Text to speech"]))).toContain("Read out");
    expect(phrasesOf(tasksOf(["Real-ESRGAN upscaler"]))).toContain("bigger");
    expect(tasksOf(["code"])).not.toEqual([]);
    expect(tasksOf(["barcode", "dataset"])).toEqual([]);
  });

  it("have phrases that end as sentences, so that they can be told apart", () => {
    for (const { text } of TASK_PHRASES) expect(text).toMatch(/^[A-Z].*[.?]$/);
    expect(new Set(TASK_PHRASES.map(({ text }) => text)).size).toBe(TASK_PHRASES.length);
  });
});
