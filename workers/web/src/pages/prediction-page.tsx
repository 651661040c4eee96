import { Loader } from "@cloudflare/kumo/components/loader";
import type { Prediction } from "../api.ts";
import { CopyButton } from "../components/copy-button.tsx";
import { ExplainedError } from "../components/explained.tsx";
import { InputView } from "../components/input-view.tsx";
import { PredictionView } from "../components/prediction-view.tsx";
import { component } from "../form/input-schema.ts";
import { dateTime } from "../format.ts";
import { useApi, useFollowed, useLoaded } from "../hooks.ts";
import { modelPath } from "../route.ts";
import { Link } from "../router.tsx";
import { useTitle } from "../use-title.ts";

export function PredictionPage({ id }: { id: string }) {
  useTitle("Prediction");
  const api = useApi();
  const loaded = useLoaded(`prediction ${id}`, () => api.prediction(id));
  const followed = useFollowed(loaded.data ?? null);
  if (followed === null) {
    return loaded.error === undefined ? (
      <p className="loading">
        <Loader size="sm" /> Loading the prediction
      </p>
    ) : (
      <ExplainedError error={loaded.error} onRetry={loaded.reload} />
    );
  }
  const { prediction } = followed;
  const [owner = "", name = ""] = prediction.model.split("/");
  const model = modelPath({ owner, name });
  return (
    <>
      <p className="crumbs">
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
            {prediction.data_removed ? null : (
              <Link href={`${model}?from=${prediction.id}`} className="quiet-link">
                Run again with changes
              </Link>
            )}
          </div>
          <div className="panel-body">
            {prediction.data_removed ? <p className="muted">Removed.</p> : <InputView input={prediction.input} />}
            <dl className="facts prediction-facts">
              <Fact name="Created" value={dateTime(prediction.created_at)} />
              <Fact name="From" value={prediction.source === "web" ? "this page" : "the API"} />
              <Fact name="Version" value={prediction.version.slice(0, 12)} />
            </dl>
          </div>
        </section>
        <section className="panel" aria-labelledby="output-title">
          <div className="panel-head">
            <h2 id="output-title">Output</h2>
          </div>
          <div className="panel-body">
            <OutputOf prediction={prediction} owner={owner} name={name} followed={followed} />
          </div>
        </section>
      </div>
    </>
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

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}
