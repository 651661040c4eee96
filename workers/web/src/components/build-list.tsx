/** A model's builds, newest first, for those who may push to it. */
import { Button } from "@cloudflare/kumo/components/button";
import { Loader } from "@cloudflare/kumo/components/loader";
import { useEffect, useState } from "react";
import { type BuildSummary, isBuildOver, type Model, type Page } from "../api.ts";
import { stageInWords } from "../build-stages.ts";
import { ago, dateTime, duration } from "../format.ts";
import { fullName } from "../group-models.ts";
import { type Loaded, useApi, useInterval, useLoaded, useNow } from "../hooks.ts";
import { buildPath } from "../route.ts";
import { Link } from "../router.tsx";
import { ExplainedError } from "./explained.tsx";
import { PushGuide } from "./push-guide.tsx";
import { Status } from "./status.tsx";

const LIVE_REFRESH_MS = 2_000;
/** Whoever pushes looks here. */
const IDLE_REFRESH_MS = 5_000;
const CLOCK_MS = 1_000;

export function BuildList({ model, first }: { model: Model; first: Loaded<Page<BuildSummary>> }) {
  const api = useApi();
  const [older, setOlder] = useState<Page<BuildSummary>[]>([]);
  const [olderError, setOlderError] = useState<unknown>(undefined);
  const { reload } = first;
  // What was read for the model's head may be old by the time that somebody looks here.
  useEffect(reload, [reload]);
  const isLive = first.data?.results.some((build) => !isBuildOver(build)) === true;
  useInterval(reload, isLive ? LIVE_REFRESH_MS : IDLE_REFRESH_MS);
  const now = useNow(isLive ? CLOCK_MS : IDLE_REFRESH_MS);
  if (first.data === undefined) {
    return first.error === undefined ? (
      <p className="loading">
        <Loader size="sm" /> Loading builds
      </p>
    ) : (
      <ExplainedError error={first.error} onRetry={reload} />
    );
  }
  const all = [...first.data.results, ...older.flatMap((page) => page.results)];
  const builds = [...new Map(all.map((build) => [build.id, build])).values()];
  const { next } = older.at(-1) ?? first.data;
  const loadOlder = async () => {
    if (next === null) return;
    try {
      const page = await api.builds(model.owner, model.name, next);
      setOlder((pages) => [...pages, page]);
      setOlderError(undefined);
    } catch (error) {
      setOlderError(error);
    }
  };
  if (builds.length === 0) {
    return (
      <PushGuide model={fullName(model)} title="No builds yet">
        Each push of a source is a build. It shows up here while it goes, and is kept for 90 days. An image is not
        built.
      </PushGuide>
    );
  }
  return (
    <>
      <ul className="prediction-list build-list" aria-label="Builds">
        {builds.map((build) => (
          <li key={build.id}>
            <Link href={buildPath(model, build.id)} className="prediction-row">
              <Status status={build.status} />
              <span className="prediction-row-model mono">{build.id.slice(0, 8)}</span>
              <span className="prediction-row-result">
                <Result model={model} build={build} />
              </span>
              <span className="prediction-row-ran numeral">
                {duration(
                  (isBuildOver(build) ? Date.parse(build.completed_at ?? "") : now) - Date.parse(build.created_at),
                )}
              </span>
              <time className="prediction-row-time" dateTime={build.created_at} title={dateTime(build.created_at)}>
                {ago(build.created_at, now)}
              </time>
            </Link>
          </li>
        ))}
      </ul>
      {olderError === undefined ? null : <ExplainedError error={olderError} />}
      {next === null ? null : (
        <Button className="load-older" onClick={() => void loadOlder()}>
          Load older
        </Button>
      )}
    </>
  );
}

function Result({ model, build }: { model: Model; build: BuildSummary }) {
  if (!isBuildOver(build)) return <CurrentStage model={model} build={build} />;
  if (build.error !== null) return <span className="glimpse-error">{build.error}</span>;
  return build.version === null ? null : <span className="mono">{build.version.slice(0, 12)}</span>;
}

/** Of the few that run: lists do not tell it. */
function CurrentStage({ model, build }: { model: Model; build: BuildSummary }) {
  const api = useApi();
  const loaded = useLoaded(`build ${build.id}`, () => api.build(model.owner, model.name, build.id));
  useInterval(loaded.reload, LIVE_REFRESH_MS);
  return <span>{loaded.data === undefined ? "" : stageInWords(loaded.data)}</span>;
}
