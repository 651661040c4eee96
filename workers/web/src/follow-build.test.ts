import { afterEach, expect, it, vi } from "vitest";
import { ApiError, type Build } from "./api.ts";
import { type FollowedBuild, followBuild } from "./follow-build.ts";

const BUILD = {
  id: "b1",
  model: "a/m",
  status: "queued",
  stage: null,
  stages: [],
  completed_at: null,
} as unknown as Build;
const DONE = { ...BUILD, status: "succeeded", completed_at: "2026-01-01T00:00:00Z" };

const event = (name: string, id: string, data: string) => `event: ${name}\nid: ${id}\ndata: ${data}\n\n`;
const status = (id: string, stage: string) =>
  event("status", id, JSON.stringify({ status: "building", stage, waiting_for: null }));

afterEach(() => vi.unstubAllGlobals());

/** Answers each opening in turn; null is a connection that fails. */
async function follow(answers: (string | ApiError | null)[]) {
  const openedAfter: (string | null)[] = [];
  const told: FollowedBuild[] = [];
  const times = [{ name: "fetch", started_at: "2026-01-01T00:00:00Z" }];
  const api = {
    openBuildEvents: async (_build: Build, lastEventId: string | null) => {
      openedAfter.push(lastEventId);
      const answer = answers.shift();
      if (answer instanceof ApiError) throw answer;
      if (typeof answer !== "string") throw new ApiError(0, null);
      return new Response(answer);
    },
    build: async () => ({ ...BUILD, status: "building" as const, stage: "fetch", stages: times }),
  };
  const end = followBuild(api, BUILD, (followed) => told.push(followed), new AbortController().signal);
  await end;
  return { openedAfter, told };
}

it("goes on where a connection broke, without a line lost or twice, and tells while the server is away", async () => {
  vi.stubGlobal("document", { visibilityState: "hidden" });
  const { openedAfter, told } = await follow([
    status("0", "fetch") + event("logs", "4", "one"),
    null,
    event("logs", "8", " line\ndata: two\ndata:") + event("done", "8d", JSON.stringify(DONE)),
  ]);
  expect(openedAfter).toEqual([null, "4", "4"]);
  expect(told.some(({ isReached }) => !isReached)).toBe(true);
  expect(told.some(({ build }) => build.stages.length === 1)).toBe(true);
  expect(told.at(-1)).toEqual({ build: DONE, log: { lines: ["one line", "two", ""], dropped: 0 }, isReached: true });
});

it("ends where the server refuses", async () => {
  const gone = new ApiError(404, null);
  await expect(follow([gone])).rejects.toBe(gone);
});
