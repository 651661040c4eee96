/** One build as it goes: its stages, its log, and what came of it. */
import { Button } from "@cloudflare/kumo/components/button";
import { Loader } from "@cloudflare/kumo/components/loader";
import { CheckIcon, DownloadSimpleIcon, StopIcon, XIcon } from "@phosphor-icons/react";
import { useEffect, useRef, useState } from "react";
import { type Build, isBuildOver, type Model } from "../api.ts";
import { blocksOf, type LogTail } from "../build-log.ts";
import { type StageTime, stageInWords, stageTimes } from "../build-stages.ts";
import { count, dateTime, duration } from "../format.ts";
import { useApi, useFollowedBuild, useLoaded, useNow } from "../hooks.ts";
import { modelViewPath, predictionPath, versionPath } from "../route.ts";
import { Link } from "../router.tsx";
import { saveAs } from "../save-as.ts";
import { CopyButton } from "./copy-button.tsx";
import { Explained, ExplainedError } from "./explained.tsx";
import { SchemaDiffView } from "./schema-diff.tsx";
import { ScrollBox } from "./scroll-box.tsx";
import { Status } from "./status.tsx";

const CLOCK_MS = 500;

/** `onEnded`: the model may have a new version. */
export function BuildView({
  model,
  id,
  mayChange,
  onEnded,
}: {
  model: Model;
  id: string;
  mayChange: boolean;
  onEnded: () => void;
}) {
  const api = useApi();
  const first = useLoaded(`build ${id}`, () => api.build(model.owner, model.name, id));
  return (
    <>
      <p className="crumbs build-crumbs">
        <Link href={modelViewPath(model, "builds")}>All builds</Link>
      </p>
      <div className="title-row">
        <h2 className="prediction-id">Build {id}</h2>
        <CopyButton text={id} label="Copy id" />
      </div>
      {first.data === undefined ? (
        first.error === undefined ? (
          <p className="loading">
            <Loader size="sm" /> Loading the build
          </p>
        ) : (
          <ExplainedError error={first.error} onRetry={first.reload} />
        )
      ) : (
        <Followed key={id} model={model} first={first.data} mayChange={mayChange} onEnded={onEnded} />
      )}
    </>
  );
}

function Followed({
  model,
  first,
  mayChange,
  onEnded,
}: {
  model: Model;
  first: Build;
  mayChange: boolean;
  onEnded: () => void;
}) {
  const { build, log, isReached, error } = useFollowedBuild(first);
  const isOver = isBuildOver(build);
  const wasOver = useRef(isOver);
  useEffect(() => {
    if (isOver && !wasOver.current) onEnded();
    wasOver.current = isOver;
  }, [isOver, onEnded]);
  return (
    <div className="bench build">
      <section className="panel" aria-label="Build">
        <div className="panel-body">
          <StatusLine build={build} mayChange={mayChange} />
          {isReached ? null : (
            <p className="muted" role="status">
              The server does not answer. Trying again; nothing is lost.
            </p>
          )}
          {error === undefined ? null : <ExplainedError error={error} />}
          {build.error === null ? null : <Explained explanation={{ title: "The build failed", detail: build.error }} />}
          <Stages build={build} />
          {isOver ? <Result model={model} build={build} /> : null}
        </div>
      </section>
      <LogPanel build={build} log={log} />
    </div>
  );
}

function StatusLine({ build, mayChange }: { build: Build; mayChange: boolean }) {
  const api = useApi();
  const isOver = isBuildOver(build);
  const now = useNow(isOver ? null : CLOCK_MS);
  const [isCanceling, setCanceling] = useState(false);
  const [refused, setRefused] = useState<unknown>(undefined);
  const cancel = async () => {
    setCanceling(true);
    setRefused(undefined);
    try {
      await api.cancelBuild(build);
    } catch (error) {
      setRefused(error);
      setCanceling(false);
    }
  };
  const end = build.completed_at === null ? now : Date.parse(build.completed_at);
  return (
    <>
      <div className="status-line">
        <span className="status-line-now">
          {/* The words are announced when they change; the clock beside them is not. */}
          <span role="status">
            {isOver ? <Status status={build.status} /> : isCanceling ? "Canceling" : stageInWords(build)}
          </span>
        </span>
        <span className="muted numeral">{duration(end - Date.parse(build.created_at))}</span>
        {isOver || !mayChange ? null : (
          <span className="status-line-actions">
            <Button size="sm" icon={StopIcon} disabled={isCanceling} onClick={() => void cancel()}>
              Cancel
            </Button>
          </span>
        )}
      </div>
      {refused === undefined ? null : <ExplainedError error={refused} />}
    </>
  );
}

const STATES: Record<StageTime["state"], string> = {
  done: "done",
  now: "now",
  failed: "failed here",
  canceled: "canceled here",
};

function Stages({ build }: { build: Build }) {
  const now = useNow(isBuildOver(build) ? null : CLOCK_MS);
  return (
    <ol className="stages" aria-label="Stages">
      {stageTimes(build, now).map(({ name, state, took_ms }) => (
        <li key={name} data-state={state}>
          <span className="stage-mark" aria-hidden>
            {state === "done" ? <CheckIcon /> : state === "now" ? <Loader size={14} /> : <XIcon />}
          </span>
          <span>
            {name}
            <span className={state === "done" || state === "now" ? "sr-only" : "stage-state"}> {STATES[state]}</span>
          </span>
          <span className="muted numeral">{duration(took_ms)}</span>
        </li>
      ))}
    </ol>
  );
}

function Result({ model, build }: { model: Model; build: Build }) {
  return (
    <>
      {build.version === null ? null : (
        <div className="trained build-result">
          <p className="muted">Version</p>
          <p className="mono trained-version">{build.version}</p>
          <p className="trained-links">
            <Link href={versionPath(model, build.version)}>Run it</Link>
            {build.test_prediction === null ? null : (
              <Link href={predictionPath(build.test_prediction)}>Its test prediction</Link>
            )}
          </p>
        </div>
      )}
      {build.version === null && build.schema_diff === null ? null : (
        <section className="build-part" aria-label="Changes for callers">
          <h3>Changes for callers</h3>
          <SchemaDiffView diff={build.schema_diff} />
        </section>
      )}
      {build.warnings.length === 0 ? null : (
        <section className="build-part" aria-label="Warnings">
          <h3>{count(build.warnings.length, "warning", "warnings")}</h3>
          <ul className="warnings">
            {build.warnings.map((warning) => (
              <li key={warning}>{warning}</li>
            ))}
          </ul>
        </section>
      )}
      <dl className="facts prediction-facts">
        <div>
          <dt>Created</dt>
          <dd>{dateTime(build.created_at)}</dd>
        </div>
        <div data-wide="">
          <dt>Source</dt>
          <dd className="mono">{build.manifest}</dd>
        </div>
      </dl>
    </>
  );
}

function LogPanel({ build, log }: { build: Build; log: LogTail }) {
  const api = useApi();
  const [refused, setRefused] = useState<unknown>(undefined);
  const isOver = isBuildOver(build);
  const isEmpty = log.lines.length === 1 && log.lines[0] === "";
  const download = async () => {
    setRefused(undefined);
    try {
      saveAs(await api.buildLog(build), `${build.id}.log`);
    } catch (error) {
      setRefused(error);
    }
  };
  return (
    <section className="panel build-log" aria-labelledby="log-title">
      <div className="panel-head">
        <h2 id="log-title">Log</h2>
        {isEmpty ? null : (
          <Button size="sm" variant="ghost" icon={DownloadSimpleIcon} onClick={() => void download()}>
            Download
          </Button>
        )}
      </div>
      <div className="panel-body">
        {refused === undefined ? null : <ExplainedError error={refused} />}
        {isEmpty ? (
          <p className="muted">{isOver ? "It wrote nothing." : "Nothing yet."}</p>
        ) : (
          <>
            {log.dropped === 0 ? null : (
              <p className="muted">{count(log.dropped, "earlier line is", "earlier lines are")} in the download.</p>
            )}
            {/* Also of an ended build the end is what counts. */}
            <ScrollBox label="Log" isGrowing>
              {blocksOf(log).map(({ first, text }) => (
                <span key={first} className="log-block">
                  {text}
                </span>
              ))}
            </ScrollBox>
          </>
        )}
      </div>
    </section>
  );
}
