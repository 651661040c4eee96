/** Data of the server in components: loading, error, reload; a prediction that is followed; the time that passes. */
import { createContext, useCallback, useContext, useEffect, useRef, useState } from "react";
import { type Api, type Build, hasEnded, type Prediction } from "./api.ts";
import { NO_LOG } from "./build-log.ts";
import { type FollowedBuild, followBuild } from "./follow-build.ts";
import { type Followed, followPrediction } from "./follow-prediction.ts";
import { NOTHING_YET } from "./live-output.ts";

export const ApiContext = createContext<Api | null>(null);

export function useApi(): Api {
  const api = useContext(ApiContext);
  if (api === null) throw new Error("used outside of a signed-in page");
  return api;
}

export interface Loaded<T> {
  data: T | undefined;
  error: unknown;
  reload: () => void;
}

/** Loads when `key` changes and on `reload`. What was loaded stays while it is loaded again, also when that fails. */
export function useLoaded<T>(key: string, load: () => Promise<T>): Loaded<T> {
  const [state, setState] = useState<{ key: string; data?: T; error?: unknown }>({ key });
  const [round, setRound] = useState(0);
  const latest = useRef(load);
  latest.current = load;
  // biome-ignore lint/correctness/useExhaustiveDependencies: `round` asks for another load.
  useEffect(() => {
    let isCurrent = true;
    latest.current().then(
      (data) => isCurrent && setState({ key, data }),
      (error: unknown) =>
        isCurrent && setState((before) => (before.key === key ? { ...before, error } : { key, error })),
    );
    return () => {
      isCurrent = false;
    };
  }, [key, round]);
  const reload = useCallback(() => setRound((n) => n + 1), []);
  return state.key === key
    ? { data: state.data, error: state.error, reload }
    : { data: undefined, error: undefined, reload };
}

/** Calls `work` every `ms` while the tab is seen, and when it is seen again. Null stops it. */
export function useInterval(work: () => void, ms: number | null): void {
  const latest = useRef(work);
  latest.current = work;
  useEffect(() => {
    if (ms === null) return;
    const run = () => {
      if (document.visibilityState === "visible") latest.current();
    };
    const timer = setInterval(run, ms);
    document.addEventListener("visibilitychange", run);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", run);
    };
  }, [ms]);
}

/** The time, renewed every `ms`; it stands still with null. */
export function useNow(ms: number | null): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (ms === null) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), ms);
    return () => clearInterval(timer);
  }, [ms]);
  return now;
}

/** Tells the lists of predictions that something in them changed, so that they are read at once instead of at their next turn. */
const listeners = new Set<() => void>();
export function predictionsChanged(): void {
  for (const listener of listeners) listener();
}
export function useOnPredictionsChanged(work: () => void): void {
  const latest = useRef(work);
  latest.current = work;
  useEffect(() => {
    const listener = () => latest.current();
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
    };
  }, []);
}

export interface FollowedPrediction extends Followed {
  /** following ended before the prediction did */
  error: unknown;
}

/** The newest state of `first`, from its stream and its document, until it ends. */
export function useFollowed(first: Prediction | null): FollowedPrediction | null {
  const api = useApi();
  const [state, setState] = useState<FollowedPrediction | null>(null);
  useEffect(() => {
    if (first === null) {
      setState(null);
      return;
    }
    setState({ prediction: first, live: NOTHING_YET, isReached: true, error: undefined });
    if (hasEnded(first)) return;
    const stop = new AbortController();
    let status = first.status;
    const onChange = (followed: Followed) => {
      setState({ ...followed, error: undefined });
      if (followed.prediction.status !== status) {
        status = followed.prediction.status;
        predictionsChanged();
      }
    };
    followPrediction(api, first, onChange, stop.signal).catch((error: unknown) => {
      if (!stop.signal.aborted) setState((before) => (before === null ? null : { ...before, error }));
    });
    return () => stop.abort();
  }, [api, first]);
  return state;
}

/** The newest state of a build and its log, until it ends. `error`: following ended before the build did. */
export function useFollowedBuild(first: Build): FollowedBuild & { error: unknown } {
  const api = useApi();
  const [state, setState] = useState<FollowedBuild & { error: unknown }>(() => ({
    build: first,
    log: NO_LOG,
    isReached: true,
    error: undefined,
  }));
  useEffect(() => {
    const stop = new AbortController();
    followBuild(api, first, (followed) => setState({ ...followed, error: undefined }), stop.signal).catch(
      (error: unknown) => {
        if (!stop.signal.aborted) setState((before) => ({ ...before, error }));
      },
    );
    return () => stop.abort();
  }, [api, first]);
  return state;
}
