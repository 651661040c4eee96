import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { beyondBounds, type KeptImage } from "./docker-builder-cache.ts";

const anImage = (version_id: string, used_at: number, part: Partial<KeptImage> = {}): KeptImage => ({
  version_id,
  used_at,
  own_bytes: 100,
  is_held: false,
  ...part,
});

describe("which images go", () => {
  it("is none within the bounds", () => {
    expect(beyondBounds([anImage("a", 1), anImage("b", 2)], { bytes: 200, images: 2 })).toEqual([]);
  });

  it("is those that were used longest ago, by bytes or by number", () => {
    const images = [anImage("new", 3), anImage("old", 1), anImage("middle", 2)];
    expect(beyondBounds(images, { bytes: 1_000, images: 1 })).toEqual(["old", "middle"]);
    expect(beyondBounds(images, { bytes: 250, images: 10 })).toEqual(["old"]);
  });

  it("is never one that somebody uses", () => {
    const images = [anImage("old", 1, { is_held: true }), anImage("new", 2)];
    expect(beyondBounds(images, { bytes: 0, images: 0 })).toEqual(["new"]);
  });

  it("leaves the bounds kept, unless all that is left is held, and takes no newer one before an older", () => {
    const image = fc.record({
      version_id: fc.uuid(),
      used_at: fc.nat(1_000),
      own_bytes: fc.nat(1_000),
      is_held: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(image, { maxLength: 20 }), fc.nat(5_000), fc.nat(20), (images, bytes, count) => {
        const gone = new Set(beyondBounds(images, { bytes, images: count }));
        const left = images.filter(({ version_id }) => !gone.has(version_id));
        const isWithin = left.length <= count && left.reduce((sum, { own_bytes }) => sum + own_bytes, 0) <= bytes;
        expect(isWithin || left.every(({ is_held }) => is_held)).toBe(true);
        const oldestLeft = Math.min(...left.filter(({ is_held }) => !is_held).map(({ used_at }) => used_at));
        for (const { version_id, used_at } of images)
          if (gone.has(version_id)) expect(used_at).toBeLessThanOrEqual(oldestLeft);
      }),
    );
  });
});
