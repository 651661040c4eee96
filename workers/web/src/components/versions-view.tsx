/** A model's versions, newest first: what made each, what it changed for callers, and the way back to it. */
import { Button } from "@cloudflare/kumo/components/button";
import { Loader } from "@cloudflare/kumo/components/loader";
import { useEffect, useRef, useState } from "react";
import type { Model, Page, Prediction, Version } from "../api.ts";
import { dateTime } from "../format.ts";
import { fullName } from "../group-models.ts";
import { useApi, useInterval, useLoaded } from "../hooks.ts";
import { buildPath, predictionPath, versionPath } from "../route.ts";
import { Link } from "../router.tsx";
import { ExplainedError } from "./explained.tsx";
import { PushGuide } from "./push-guide.tsx";
import { RollBack } from "./roll-back.tsx";
import { SchemaDiffView } from "./schema-diff.tsx";
import { StableMark } from "./stable-mark.tsx";
import { versionMade } from "./trained-version.tsx";

/** For what is pushed meanwhile. */
const REFRESH_MS = 15_000;
/** So many say at once what they changed; the others when they are opened. */
const OPEN_AT_FIRST = 3;

/** `mayChange`: the reader may roll back. `seesBuilds`: and look at builds. */
export function VersionsView({
  model,
  mayChange,
  seesBuilds,
  onChanged,
}: {
  model: Model;
  mayChange: boolean;
  seesBuilds: boolean;
  onChanged: () => void;
}) {
  const api = useApi();
  const name = fullName(model);
  const first = useLoaded(`versions ${name}`, () => api.versions(model.owner, model.name));
  useInterval(() => {
    first.reload();
    // Which of them is the latest is the model's.
    onChanged();
  }, REFRESH_MS);
  const trainings = useLoaded("trainings", () => api.trainings());
  const [older, setOlder] = useState<Page<Version>[]>([]);
  const [olderError, setOlderError] = useState<unknown>(undefined);
  const [outcome, setOutcome] = useState("");
  const said = useRef<HTMLParagraphElement>(null);
  // The button that was pressed is gone with it, so the focus goes to what came of it.
  useEffect(() => {
    if (outcome !== "") said.current?.focus();
  }, [outcome]);
  if (first.data === undefined) {
    return first.error === undefined ? (
      <p className="loading">
        <Loader size="sm" /> Loading versions
      </p>
    ) : (
      <ExplainedError error={first.error} onRetry={first.reload} />
    );
  }
  const all = [...first.data.results, ...older.flatMap((page) => page.results)];
  const versions = [...new Map(all.map((version) => [version.id, version])).values()];
  const { next } = older.at(-1) ?? first.data;
  const latest = model.latest_version;
  const madeBy = trainingsByVersion(name, trainings.data?.results ?? []);
  const loadOlder = async () => {
    if (next === null) return;
    try {
      const page = await api.versions(model.owner, model.name, next);
      setOlder((pages) => [...pages, page]);
      setOlderError(undefined);
    } catch (error) {
      setOlderError(error);
    }
  };
  if (versions.length === 0) {
    return mayChange ? (
      <PushGuide model={name} title="No versions yet">
        Push a folder, and its first version shows up here.
      </PushGuide>
    ) : (
      <p className="muted view-empty">This model has no versions yet.</p>
    );
  }
  return (
    <>
      <StableMark model={model} mayChange={mayChange} onChanged={onChanged} />
      <p role="status" tabIndex={-1} ref={said} className="outcome">
        {outcome}
      </p>
      <ol className="version-list" aria-label="Versions">
        {versions.map((version, index) => (
          <li key={version.id} className="panel version">
            <div className="version-head">
              <h2>
                <Link href={versionPath(model, version.id)} className="mono" title={version.id}>
                  {version.id.slice(0, 12)}
                </Link>
              </h2>
              {version.id === latest?.id ? <span className="latest-mark">Latest</span> : null}
              {mayChange && latest !== null && version.id !== latest.id ? (
                <span className="version-actions">
                  <RollBack
                    model={model}
                    latest={latest}
                    version={version}
                    onDone={() => {
                      setOutcome(`${name} runs ${version.id.slice(0, 12)} now.`);
                      onChanged();
                    }}
                  />
                </span>
              ) : null}
            </div>
            <p className="muted version-made">
              <time dateTime={version.created_at}>{dateTime(version.created_at)}</time>
              {" · "}
              <MadeBy model={model} version={version} training={madeBy.get(version.id)} seesBuilds={seesBuilds} />
              {" · "}
              {`Cog ${version.cog_version}`}
            </p>
            <Changes model={model} version={version} isOpen={index < OPEN_AT_FIRST} />
          </li>
        ))}
      </ol>
      {olderError === undefined ? null : <ExplainedError error={olderError} />}
      {next === null ? null : (
        <Button className="load-older" onClick={() => void loadOlder()}>
          Load older
        </Button>
      )}
    </>
  );
}

function MadeBy({
  model,
  version,
  training,
  seesBuilds,
}: {
  model: Model;
  version: Version;
  training: Prediction | undefined;
  seesBuilds: boolean;
}) {
  if (version.kind === "image") return "pushed as an image, nothing was built";
  if (training !== undefined) return <Link href={predictionPath(training.id)}>Training {training.id.slice(0, 8)}</Link>;
  if (version.build !== null && seesBuilds)
    return <Link href={buildPath(model, version.build)}>Build {version.build.slice(0, 8)}</Link>;
  return version.kind === "source" ? "pushed as a source" : "not pushed";
}

function Changes({ model, version, isOpen }: { model: Model; version: Version; isOpen: boolean }) {
  const [isShown, setShown] = useState(isOpen);
  return (
    <details open={isOpen} className="version-changes" onToggle={(event) => setShown(event.currentTarget.open)}>
      <summary>Changes for callers</summary>
      {isShown ? <LoadedDiff model={model} version={version} /> : null}
    </details>
  );
}

function LoadedDiff({ model, version }: { model: Model; version: Version }) {
  const api = useApi();
  const diff = useLoaded(`diff ${version.id}`, () => api.versionDiff(model.owner, model.name, version.id));
  if (diff.data !== undefined) return <SchemaDiffView diff={diff.data} />;
  return diff.error === undefined ? <Loader size="sm" /> : <ExplainedError error={diff.error} onRetry={diff.reload} />;
}

/** By id of the version, of one model. */
function trainingsByVersion(model: string, trainings: Prediction[]): Map<string, Prediction> {
  return new Map(
    trainings.flatMap((training) => {
      const made = versionMade(training.output);
      return made?.model === model ? [[made.id, training] as const] : [];
    }),
  );
}
