import { describe, expect, it } from "vitest";
import { VECTOR_DIMENSIONS } from "../schema/search-ranking.ts";
import { SearchVectors } from "./search-vectors.ts";

const DOCUMENTS = 50_000;
const BYTES_MAX = 40_000_000;

/** Equal numbers each time. */
let state = 7;
const next = () => {
  state = (state * 48_271) % 2_147_483_647;
  return state / 2_147_483_647 - 0.5;
};
const random = () => Int8Array.from({ length: VECTOR_DIMENSIONS }, () => next() * 250);
/** A vector near `base`. */
const near = (base: Int8Array) => Int8Array.from(base, (part) => part * 0.7 + next() * 120);

describe(`${DOCUMENTS} vectors`, () => {
  it("take less than half of what an isolate may have left, and give the nearest", () => {
    const vectors = new SearchVectors();
    const query = random();
    const relatives = new Set<number>();
    for (let id = 0; id < DOCUMENTS; id++) {
      const isNear = id % 2_500 === 0;
      if (isNear) relatives.add(id);
      vectors.set(id, isNear ? near(query) : random());
    }
    expect(vectors.count).toBe(DOCUMENTS);
    expect(vectors.bytes).toBeLessThan(BYTES_MAX);
    const all = vectors.nearest(query, 0, DOCUMENTS, () => true, relatives.size);
    expect(new Set(all)).toEqual(relatives);
    const cosines = all.map((id) => vectors.cosine(id, query) ?? 0);
    expect(cosines).toEqual(cosines.toSorted((a, b) => b - a));
    const some = vectors.nearest(query, 1, DOCUMENTS, (id) => id !== 2_500, 5);
    expect(some).not.toContain(0);
    expect(some).not.toContain(2_500);
    vectors.remove(5_000);
    expect(vectors.cosine(5_000, query)).toBeNull();
    expect(vectors.nearest(query, 0, DOCUMENTS, () => true, relatives.size)).not.toContain(5_000);
  });
});
