import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isOutputSignatureValid, readStreamToken } from "./capabilities.ts";
import type { FileRef } from "./origin-protocol.ts";
import { PREDICTION_STATES, type PredictionDocument } from "./prediction-document.ts";
import { asFileRef, renderOutput, renderPrediction, viewOf } from "./render-prediction.ts";

const ID = "abcdefghijklmnopqrstuvwxyz";
const SECRET = "secret";
const VIEW = { publicUrl: "https://cogway.test", signingSecret: SECRET };
const CREATED_AT = Date.UTC(2026, 10, 24, 12);

function aDocument(change: Partial<PredictionDocument> = {}): PredictionDocument {
  return {
    id: ID,
    account_id: "alice",
    kind: "prediction",
    model: "cogway/test",
    version: "a".repeat(64),
    destination: null,
    state: "succeeded",
    input: { text: "hello" },
    output: "world",
    error: null,
    error_code: null,
    logs: "a line\n",
    metrics: { predict_time: 1 },
    created_at: CREATED_AT,
    started_at: CREATED_AT + 250,
    completed_at: CREATED_AT + 1_250,
    deadline_at: null,
    expires_at: CREATED_AT + 3_600_000,
    data_removed: false,
    source: "api",
    deployment: null,
    webhook: null,
    webhook_events_filter: null,
    stream_kind: "text",
    meter: { hardware: "cpu", predict_time_s: 1, outcome: "succeeded", platform_failure: false },
    cost_micros: 1_234_567,
    ...change,
  };
}

const aFile = (n: number, name = "image.png"): FileRef => ({
  $cogway_file: { n, name, content_type: "image/png", size_bytes: 10, sha256: "0".repeat(64) },
});

/** The file that a rendered URL opens; fails when its signature opens none. */
function opened(url: unknown): { n: number; name: string } {
  const { pathname, searchParams, origin } = new URL(String(url));
  expect(origin).toBe("https://cogway.test");
  const [, , prediction_id = "", n = "", name = ""] = pathname.split("/");
  const output = { prediction_id, n: Number(n), name: decodeURIComponent(name) };
  expect(prediction_id).toBe(ID);
  expect(isOutputSignatureValid(SECRET, output, searchParams.get("s") ?? "")).toBe(true);
  return { n: output.n, name: output.name };
}

describe("renderPrediction", () => {
  it("shows Replicate's object, and nothing that is only ours to know", () => {
    const shown = renderPrediction(aDocument(), VIEW);
    const { stream, ...urls } = shown["urls"] as Record<string, string>;
    expect({ ...shown, urls }).toEqual({
      id: ID,
      model: "cogway/test",
      version: "a".repeat(64),
      input: { text: "hello" },
      logs: "a line\n",
      output: "world",
      data_removed: false,
      error: null,
      source: "api",
      status: "succeeded",
      created_at: "2026-11-24T12:00:00.000Z",
      started_at: "2026-11-24T12:00:00.250Z",
      completed_at: "2026-11-24T12:00:01.250Z",
      expires_at: "2026-11-24T13:00:00.000Z",
      metrics: { predict_time: 1 },
      cost: 1_234_567,
      cost_usd: "1.234567",
      urls: {
        get: `https://cogway.test/v1/predictions/${ID}`,
        cancel: `https://cogway.test/v1/predictions/${ID}/cancel`,
        web: `https://cogway.test/p/${ID}`,
      },
    });
    expect(readStreamToken(SECRET, stream?.replace("https://cogway.test/v1/streams/", "") ?? "")).toBe(ID);
    expect(JSON.stringify(shown)).not.toContain("alice");
  });

  it("shows a cost once it ended, and what ended before there were prices as free", () => {
    const cost = (change: Partial<PredictionDocument>) => {
      const { cost, cost_usd } = renderPrediction(aDocument(change), VIEW);
      return { cost, cost_usd };
    };
    expect(cost({ state: "processing" })).toEqual({ cost: null, cost_usd: null });
    expect(cost({ state: "failed", cost_micros: 7 })).toEqual({ cost: 7, cost_usd: "0.000007" });
    expect(cost({ cost_micros: null })).toEqual({ cost: 0, cost_usd: "0.000000" });
    const { cost_micros: _, ...old } = aDocument();
    expect(renderPrediction(old, VIEW)["cost"]).toBe(0);
    expect(renderPrediction(aDocument(), { ...VIEW, asTimedOut: true })["cost"]).toBeNull();
  });

  it("shows each state in a word of Replicate's, and `aborted` as one that old clients know", () => {
    const words = PREDICTION_STATES.map((state) => [
      renderPrediction(aDocument({ state }), VIEW)["status"],
      renderPrediction(aDocument({ state, started_at: null }), VIEW)["status"],
      renderPrediction(aDocument({ state }), { ...VIEW, abortedAsCanceled: true })["status"],
    ]);
    expect(Object.fromEntries(PREDICTION_STATES.map((state, n) => [state, words[n]]))).toEqual({
      queued: ["processing", "starting", "processing"],
      starting: ["processing", "starting", "processing"],
      processing: ["processing", "processing", "processing"],
      canceling: ["processing", "starting", "processing"],
      succeeded: ["succeeded", "succeeded", "succeeded"],
      failed: ["failed", "failed", "failed"],
      canceled: ["canceled", "canceled", "canceled"],
      aborted: ["aborted", "aborted", "canceled"],
    });
  });

  it("shows a create that was not waited for as starting, without output, whatever has come", () => {
    for (const state of ["queued", "processing", "canceling"] as const) {
      const document = aDocument({ state, completed_at: null, output: ["a"] });
      const shown = renderPrediction(document, { ...VIEW, asTimedOut: true });
      expect(shown).toMatchObject({ status: "starting", output: null, logs: "", started_at: null, completed_at: null });
    }
  });

  it("shows files by their signed URL at any depth, and where to stream them", () => {
    const output = { images: [aFile(0), aFile(1, "ü 1/2?#%.png")], best: { image: aFile(2), score: 0.5 }, none: null };
    const shown = renderPrediction(aDocument({ output, stream_kind: "files" }), VIEW);
    const rendered = shown["output"] as { images: unknown[]; best: { image: unknown; score: number }; none: null };
    expect([...rendered.images, rendered.best.image].map(opened)).toEqual([
      { n: 0, name: "image.png" },
      { n: 1, name: "ü 1/2?#%.png" },
      { n: 2, name: "image.png" },
    ]);
    expect([rendered.best.score, rendered.none]).toEqual([0.5, null]);
    expect(JSON.stringify(shown)).not.toContain("$cogway_file");
    expect((shown["urls"] as Record<string, string>)["stream"]).toMatch(/\/v1\/files\/streams\//);
  });

  it("shows removed data as removed: no stream, what is left as it is", () => {
    const removed = aDocument({ data_removed: true, input: {}, output: null, logs: "" });
    const shown = renderPrediction(removed, VIEW);
    expect(shown).toMatchObject({ data_removed: true, input: {}, output: null, logs: "", status: "succeeded" });
    expect(Object.keys(shown["urls"] as object)).toEqual(["get", "cancel", "web"]);
  });

  it("shows why it waits while it waits, and the code of a failure that is the platform's", () => {
    const waiting_for = { reason: "boot", queue_position: 1, elapsed_ms: 5, estimate_ms: null } as const;
    expect(renderPrediction(aDocument({ state: "queued", waiting_for }), VIEW)).toMatchObject({ waiting_for });
    expect(renderPrediction(aDocument({ waiting_for }), VIEW)).not.toHaveProperty("waiting_for");
    const failed = aDocument({ state: "failed", error: "gone", error_code: "origin.lost" });
    expect(renderPrediction(failed, VIEW)).toMatchObject({ error: "gone", error_code: "origin.lost" });
    expect(renderPrediction(aDocument({ deadline_at: CREATED_AT }), VIEW)).toMatchObject({
      deadline: "2026-11-24T12:00:00.000Z",
    });
  });
});

describe("renderOutput", () => {
  it("changes nothing but files, and never fails", () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 4 }), (json) => {
        const value: unknown = JSON.parse(json);
        expect(JSON.stringify(renderOutput(value, ID, VIEW))).toBe(JSON.stringify(value));
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: "binary-ascii", maxLength: 20 }), fc.constantFrom("", "\ud800"), (name, half) => {
        renderOutput({ deep: [aFile(0, `x${name}${half}`)] }, ID, VIEW);
      }),
    );
  });

  it("takes for a file only what is one", () => {
    expect(asFileRef(aFile(3))).toEqual(aFile(3));
    const { $cogway_file: file } = aFile(0);
    for (const broken of [{ ...file, n: -1 }, { ...file, sha256: "" }, { ...file, name: "" }, {}, null, "text"]) {
      expect(asFileRef({ $cogway_file: broken })).toBeNull();
    }
    for (const other of [null, undefined, "$cogway_file", [], 1]) expect(asFileRef(other)).toBeNull();
  });
});

describe("viewOf", () => {
  it("makes URLs without a double slash", () => {
    const view = viewOf({ PUBLIC_URL: "https://cogway.test//", SIGNING_SECRET: SECRET });
    expect(view).toEqual({ publicUrl: "https://cogway.test", signingSecret: SECRET });
  });
});
