import { Loader } from "@cloudflare/kumo/components/loader";
import type { ReactNode } from "react";
import { hasEnded, isTraining, type Prediction } from "../api.ts";
import { CopyButton } from "../components/copy-button.tsx";
import { InputView } from "../components/input-view.tsx";
import { PredictionView } from "../components/prediction-view.tsx";
import { WebhookPanel } from "../components/webhook-panel.tsx";
import { explainRetention } from "../explain.ts";
import { component } from "../form/input-schema.ts";
import { dateTime } from "../format.ts";
import { useApi, useFollowed, useLoaded, useNow } from "../hooks.ts";
import { modelPath, runsPath } from "../route.ts";
import { Link } from "../router.tsx";
import { useTitle } from "../use-title.ts";

const CLOCK_MS = 1_000;

/** A prediction or training, followed from the state that was loaded. */
export function PredictionPage({ first }: { first: Prediction }) {
  useTitle(isTraining(first) ? "Training" : "Prediction");
  const followed = useFollowed(first);
  if (followed === null) return null;
  const { prediction } = followed;
  const [owner = "", name = ""] = prediction.model.split("/");
  const model = modelPath({ owner, name });
  return (
    <>
      <p className="crumbs">
        {isTraining(prediction) ? (
          <>
            <Link href={runsPath("trainings")}>Trainings</Link> <span aria-hidden>/</span>{" "}
          </>
        ) : null}
        <Link href={model}>{prediction.model}</Link>
      </p>
      <div className="title-row">
        <h1 className="prediction-id">{prediction.id}</h1>
        <CopyButton text={prediction.id} label="Copy id" />
      </div>
      <div className="bench">
        <section className="panel" aria-labelledby="input-title">
          <div className="panel-head">
            <h2 id="input-title">Input</h2>
            {prediction.data_removed || isTraining(prediction) ? null : (
              <Link href={`${model}?from=${prediction.id}`} className="quiet-link">
                Run again with changes
              </Link>
            )}
          </div>
          <div className="panel-body">
            {prediction.data_removed ? <p className="muted">Removed.</p> : <InputView input={prediction.input} />}
            <Facts prediction={prediction} />
          </div>
        </section>
        <section className="panel" aria-labelledby="output-title">
          <div className="panel-head">
            <h2 id="output-title">{isTraining(prediction) ? "Training" : "Output"}</h2>
          </div>
          <div className="panel-body">
            <OutputOf prediction={prediction} owner={owner} name={name} followed={followed} />
          </div>
        </section>
      </div>
      {prediction.webhook === undefined ? null : <WebhookPanel prediction={prediction} />}
    </>
  );
}

function Facts({ prediction }: { prediction: Prediction }) {
  const keeps = hasEnded(prediction) && !prediction.data_removed && prediction.expires_at !== null;
  const now = useNow(keeps ? CLOCK_MS : null);
  const retention = explainRetention(prediction, now);
  const { destination } = prediction;
  const [owner = "", name = ""] = destination?.split("/") ?? [];
  return (
    <dl className="facts prediction-facts">
      <Fact name="Created">{dateTime(prediction.created_at)}</Fact>
      <Fact name="From">{prediction.source === "web" ? "this page" : "the API"}</Fact>
      <Fact name={destination === undefined ? "Version" : "Trains version"}>{prediction.version.slice(0, 12)}</Fact>
      {destination === undefined ? null : (
        <Fact name="Destination">
          <Link href={modelPath({ owner, name })}>{destination}</Link>
        </Fact>
      )}
      {prediction.trace_id === undefined ? null : (
        <Fact name="Trace" isWide>
          <code>{prediction.trace_id}</code>
        </Fact>
      )}
      {retention === null ? null : (
        <Fact name="Data is kept" isWide>
          {retention}
        </Fact>
      )}
    </dl>
  );
}

/** The version's schema tells whether texts join and what is a file; where it is gone, the values speak for themselves. */
function OutputOf({
  prediction,
  owner,
  name,
  followed,
}: {
  prediction: Prediction;
  owner: string;
  name: string;
  followed: Parameters<typeof PredictionView>[0]["followed"];
}) {
  const api = useApi();
  const version = useLoaded(`version ${prediction.version}`, () => api.version(owner, name, prediction.version));
  if (version.data === undefined && version.error === undefined) return <Loader size="sm" />;
  const schema = version.data === undefined ? {} : component(version.data.openapi_schema, "Output");
  return <PredictionView followed={followed} outputSchema={schema} />;
}

function Fact({ name, isWide = false, children }: { name: string; isWide?: boolean; children: ReactNode }) {
  return (
    <div data-wide={isWide ? "" : undefined}>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
