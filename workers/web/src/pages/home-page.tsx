import { Empty } from "@cloudflare/kumo/components/empty";
import { Loader } from "@cloudflare/kumo/components/loader";
import { CubeIcon } from "@phosphor-icons/react";
import type { Model } from "../api.ts";
import { ExplainedError } from "../components/explained.tsx";
import { ModelCard } from "../components/model-card.tsx";
import { PredictionList } from "../components/prediction-list.tsx";
import { useApi, useInterval, useLoaded } from "../hooks.ts";
import { PREDICTIONS_PATH } from "../route.ts";
import { Link } from "../router.tsx";
import { useTitle } from "../use-title.ts";

/** While a model is being prepared, the list is read again this often; else to see new models and run counts. */
const PREPARING_REFRESH_MS = 3_000;
const IDLE_REFRESH_MS = 30_000;
const RECENT = 6;

export function HomePage() {
  useTitle("Models");
  const api = useApi();
  const models = useLoaded("models", async () => {
    const all: Model[] = [];
    let next: string | undefined;
    do {
      const page = await api.models(next);
      all.push(...page.results);
      next = page.next ?? undefined;
    } while (next !== undefined);
    return all;
  });
  const isPreparing = models.data?.some((model) => model.state === "preparing") === true;
  useInterval(models.reload, isPreparing ? PREPARING_REFRESH_MS : IDLE_REFRESH_MS);
  return (
    <>
      <h1>Models</h1>
      <p className="lede">
        Pick a model, fill in its form and run it here. Everything the page does, the API does too.
      </p>
      {models.data === undefined ? (
        models.error === undefined ? (
          <p className="loading">
            <Loader size="sm" /> Loading models
          </p>
        ) : (
          <ExplainedError error={models.error} onRetry={models.reload} />
        )
      ) : models.data.length === 0 ? (
        <Empty
          icon={<CubeIcon size={40} aria-hidden />}
          title="No models yet"
          description="Start Cogway with a folder that holds a Cog model:"
          commandLine="COGWAY_MODELS=./my-model npm start"
        />
      ) : (
        <ul className="model-grid">
          {sorted(models.data).map((model) => (
            <ModelCard key={`${model.owner}/${model.name}`} model={model} />
          ))}
        </ul>
      )}
      <section className="recent" aria-labelledby="recent">
        <div className="section-head">
          <h2 id="recent">Recent predictions</h2>
          <Link href={PREDICTIONS_PATH} className="quiet-link">
            All predictions
          </Link>
        </div>
        <PredictionList
          limit={RECENT}
          empty={<p className="muted">Nothing has run yet. Your predictions show up here.</p>}
        />
      </section>
    </>
  );
}

/** Those that run first, then those being prepared, then those that cannot. */
function sorted(models: Model[]): Model[] {
  const rank = (model: Model) => (model.latest_version !== null ? 0 : model.state === "preparing" ? 1 : 2);
  return models.toSorted((a, b) => rank(a) - rank(b));
}
