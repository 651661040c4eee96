/** npm `@ai-sdk/replicate`: pictures and films, by waiting and by polling. */
import { createReplicate, type ReplicateProvider } from "@ai-sdk/replicate";
import { generateImage, experimental_generateVideo as generateVideo } from "ai";
import { beforeAll, expect, test } from "vitest";
import type { Api, Model } from "../lib/api.ts";
import type { Stage } from "./stage.ts";

const PNG_WIDTH_AT = 16;

export function aiSdk(stage: () => Stage): void {
  let caller: Api;
  let replicate: ReplicateProvider;
  beforeAll(async () => {
    caller = await stage().account("ai-sdk");
    replicate = createReplicate({ apiToken: caller.token, baseURL: `${caller.url}/v1` });
  });

  test("a picture, by model and by version", async () => {
    const wanted = { prompt: "a fox", size: "16x8", seed: 7 } as const;
    const { image, warnings } = await generateImage({ model: replicate.image("cogway/picture"), ...wanted });
    expect(image.mediaType).toBe("image/png");
    expect(Buffer.from(image.uint8Array).readUInt32BE(PNG_WIDTH_AT)).toBe(16);
    expect(warnings).toEqual([]);
    const { body } = await caller.request<Model>("GET", "/v1/models/cogway/picture");
    const version = replicate.image(`cogway/picture:${body.latest_version?.id}`);
    expect((await generateImage({ model: version, ...wanted })).image.base64).toBe(image.base64);
  });

  test("several pictures, each from a prediction of its own, out of a picture that is given", async () => {
    const given = await generateImage({ model: replicate.image("cogway/picture"), prompt: "a fox" });
    const { images } = await generateImage({
      model: replicate.image("cogway/picture"),
      prompt: { text: "a fox", images: [given.image.uint8Array] },
      n: 2,
    });
    expect(images).toHaveLength(2);
    expect(images[0]?.base64).not.toBe(given.image.base64);
  });

  test("a picture that takes longer than the wait comes by polling", async () => {
    const { image } = await generateImage({
      model: replicate.image("cogway/picture"),
      prompt: "slow",
      providerOptions: { replicate: { maxWaitTimeInSeconds: 1, pollIntervalMillis: 100, pause_s: 2 } },
    });
    expect(image.mediaType).toBe("image/png");
  });

  test("the model's words and a refusal's reach the caller", async () => {
    const model = replicate.image("cogway/picture");
    await expect(
      generateImage({ model, prompt: "x", providerOptions: { replicate: { fail: true } }, maxRetries: 0 }),
    ).rejects.toThrow("Replicate image generation failed: ValueError: no picture of that");
    await expect(
      generateImage({ model, prompt: "x", providerOptions: { replicate: { pause_s: -1 } }, maxRetries: 0 }),
    ).rejects.toThrow("input.pause_s");
    const unknown = replicate.image("cogway/none");
    await expect(generateImage({ model: unknown, prompt: "x", maxRetries: 0 })).rejects.toMatchObject({
      statusCode: 404,
      message: expect.stringContaining("cogway/none"),
    });
    const stranger = createReplicate({ apiToken: "none", baseURL: `${caller.url}/v1` });
    await expect(
      generateImage({ model: stranger.image("cogway/picture"), prompt: "x", maxRetries: 0 }),
    ).rejects.toMatchObject({ statusCode: 401 });
  });

  test("a film, by polling", async () => {
    const { video } = await generateVideo({
      model: replicate.video("cogway/files"),
      prompt: "a fox runs",
      poll: { intervalMs: 100 },
      // The `ai` package's own refuses films from private addresses, as this one is.
      download: async ({ url }) => ({ data: await (await fetch(url)).bytes(), mediaType: undefined }),
      providerOptions: { replicate: { name: "film.mp4", size: 12 } },
    });
    expect(Buffer.from(video.uint8Array).toString()).toBe("1".repeat(12));
    expect(video.mediaType).toBe("video/mp4");
  });
}
