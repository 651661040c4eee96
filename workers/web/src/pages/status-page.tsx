/** How the models do right now: who waits, what runs, on how many instances, and how the last instance failed. */
import { Button } from "@cloudflare/kumo/components/button";
import { Empty } from "@cloudflare/kumo/components/empty";
import { Loader } from "@cloudflare/kumo/components/loader";
import { PulseIcon } from "@phosphor-icons/react";
import { useRef } from "react";
import type { Api, ModelStatus, Page } from "../api.ts";
import { ExplainedError } from "../components/explained.tsx";
import { Status } from "../components/status.tsx";
import { ago, dateTime } from "../format.ts";
import { useApi, useInterval, useLoaded, useNow } from "../hooks.ts";
import { doingOf, instancesInWords, isMoving, runningInWords, totalInWords, waitingInWords } from "../model-doing.ts";
import { Link } from "../router.tsx";
import { useTitle } from "../use-title.ts";

const LIVE_REFRESH_MS = 2_000;
const IDLE_REFRESH_MS = 10_000;
const CLOCK_MS = 10_000;

export default function StatusPage() {
  useTitle("Status");
  const api = useApi();
  /** Pages that the reader asked for: all are read again at each turn, so that none shows what was. */
  const pages = useRef(1);
  const status = useLoaded("status", () => readPages(api, pages.current));
  useInterval(status.reload, status.data?.results.some(isMoving) === true ? LIVE_REFRESH_MS : IDLE_REFRESH_MS);
  const more = () => {
    pages.current += 1;
    status.reload();
  };
  return (
    <>
      <h1>Status</h1>
      <p className="lede">
        The latest version of each model that you may see, on shared hardware, as it does right now.
      </p>
      {status.data === undefined ? (
        status.error === undefined ? (
          <p className="loading">
            <Loader size="sm" /> Asking the models
          </p>
        ) : (
          <ExplainedError error={status.error} onRetry={status.reload} />
        )
      ) : (
        <>
          {status.error === undefined ? null : <ExplainedError error={status.error} onRetry={status.reload} />}
          <Models page={status.data} onMore={more} />
        </>
      )}
    </>
  );
}

async function readPages(api: Api, count: number): Promise<Page<ModelStatus>> {
  let page = await api.status();
  const results = [...page.results];
  for (let read = 1; read < count && page.next !== null; read += 1) {
    page = await api.status(page.next);
    results.push(...page.results);
  }
  return { ...page, results };
}

function Models({ page, onMore }: { page: Page<ModelStatus>; onMore: () => void }) {
  const now = useNow(CLOCK_MS);
  if (page.results.length === 0) {
    return (
      <Empty
        className="model-status-empty"
        icon={<PulseIcon size={40} aria-hidden />}
        title="No models yet"
        description="Push one, and how it does shows up here."
        contents={
          <a href="/docs/push" className="quiet-link">
            How to push a model
          </a>
        }
      />
    );
  }
  return (
    <>
      <p className="muted model-status-total numeral">
        {page.next === null ? "" : "The first "}
        {totalInWords(page.results)}
      </p>
      <ul className="model-status-list" aria-label="Models">
        {page.results.map((model) => (
          <ModelRow key={model.model} model={model} now={now} />
        ))}
      </ul>
      {page.next === null ? null : (
        <Button className="load-older" onClick={onMore}>
          Show more
        </Button>
      )}
    </>
  );
}

function ModelRow({ model, now }: { model: ModelStatus; now: number }) {
  const { last_error, reason } = model;
  return (
    <li className="model-status">
      <Status status={doingOf(model)} />
      <Link href={`/${model.model}`} className="model-status-name">
        {model.model}
      </Link>
      <span className="model-status-figure numeral" data-none={model.queue_length === 0}>
        {waitingInWords(model.queue_length)}
      </span>
      <span className="model-status-figure numeral" data-none={model.running === 0}>
        {runningInWords(model.running)}
      </span>
      <span className="model-status-figure numeral" data-none={isNone(model.instances)}>
        {instancesInWords(model.instances)}
      </span>
      {reason === null ? null : <p className="model-status-reason">{reason}</p>}
      {last_error === null ? null : (
        <details className="model-status-error">
          <summary>
            Last worker error,{" "}
            <time dateTime={last_error.at} title={dateTime(last_error.at)}>
              {ago(last_error.at, now)}
            </time>
          </summary>
          <pre>{last_error.reason ?? `It ${last_error.state} without a word.`}</pre>
        </details>
      )}
    </li>
  );
}

const isNone = (instances: ModelStatus["instances"]) => Object.values(instances).every((n) => n === 0);
