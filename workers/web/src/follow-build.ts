/**
 * Follows a build to its end by its event stream, resumed by the last event's id when the connection breaks. The stream tells log and status; its document,
 * read when a stage begins, the times. An ended build's stream gives its log at once.
 */
import { type Api, type Build, isBuildOver } from "./api.ts";
import { addLog, type LogTail, NO_LOG } from "./build-log.ts";
import { isRefusal, RETRY_MS_MAX, RETRY_MS_MIN, readEvents, sleep } from "./event-stream.ts";
import type { StreamEvent } from "./live-output.ts";

export interface FollowedBuild {
  build: Build;
  log: LogTail;
  /** false while the server does not answer: what is shown may be old */
  isReached: boolean;
}

export async function followBuild(
  api: Pick<Api, "build" | "openBuildEvents">,
  first: Build,
  onChange: (followed: FollowedBuild) => void,
  signal: AbortSignal,
): Promise<void> {
  let followed: FollowedBuild = { build: first, log: NO_LOG, isReached: true };
  let lastEventId: string | null = null;
  let isDone = false;
  let reads = 0;
  const tell = (change: Partial<FollowedBuild>) => {
    if (signal.aborted) return;
    followed = { ...followed, ...change };
    onChange(followed);
  };
  const readTimes = async () => {
    const read = ++reads;
    const [owner = "", name = ""] = first.model.split("/");
    try {
      const build = await api.build(owner, name, first.id, signal);
      if (read === reads && !isDone) tell({ build });
    } catch {
      // The stream's reader tells of a server that does not answer; the next stage, or the end, brings the times.
    }
  };
  const onEvents = (events: StreamEvent[]) => {
    const { stage } = followed.build;
    const state = events.reduce(foldBuildEvent, { build: followed.build, log: followed.log, isDone });
    lastEventId = events.findLast(({ id }) => id !== "")?.id ?? lastEventId;
    isDone = state.isDone;
    tell({ build: state.build, log: state.log });
    if (!isDone && state.build.stage !== stage) void readTimes();
  };
  let retryMs = RETRY_MS_MIN;
  while (!signal.aborted && !isDone) {
    try {
      const { body } = await api.openBuildEvents(first, lastEventId, signal);
      retryMs = RETRY_MS_MIN;
      if (!followed.isReached) tell({ isReached: true });
      if (body !== null) await readEvents(body, onEvents);
    } catch (error) {
      if (isRefusal(error)) throw error;
      tell({ isReached: false });
    }
    if (!isDone) await sleep(retryMs, signal);
    retryMs = Math.min(RETRY_MS_MAX, retryMs * 2);
  }
}

interface BuildSoFar {
  build: Build;
  log: LogTail;
  isDone: boolean;
}

function foldBuildEvent(state: BuildSoFar, { event, data }: StreamEvent): BuildSoFar {
  switch (event) {
    case "logs":
      return { ...state, log: addLog(state.log, data) };
    case "status":
      // Of an ended build it is older than the document.
      if (isBuildOver(state.build)) return state;
      return {
        ...state,
        build: { ...state.build, ...(JSON.parse(data) as Pick<Build, "status" | "stage" | "waiting_for">) },
      };
    case "done":
      return { ...state, build: JSON.parse(data) as Build, isDone: true };
    default:
      return state;
  }
}
