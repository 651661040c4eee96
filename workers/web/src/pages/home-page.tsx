/** The models: found by a description of the task, else by collection. */
import { Empty } from "@cloudflare/kumo/components/empty";
import { Loader } from "@cloudflare/kumo/components/loader";
import { CubeIcon } from "@phosphor-icons/react";
import { lazy, Suspense, useEffect, useState } from "react";
import type { Model } from "../api.ts";
import { ExplainedError } from "../components/explained.tsx";
import { ModelGrid, ModelGroupsView } from "../components/model-groups.tsx";
import { PredictionList } from "../components/prediction-list.tsx";
import { SearchBox } from "../components/search-box.tsx";
import { SearchResults } from "../components/search-results.tsx";
import { useApi, useInterval, useLoaded } from "../hooks.ts";
import { PREDICTIONS_PATH } from "../route.ts";
import { Link, useSearch } from "../router.tsx";
import { useTitle } from "../use-title.ts";

// Markdown is read only there.
const CollectionView = lazy(() => import("./collection-view.tsx"));

/** While a model is being prepared, the list is read again this often; else to see new models and run counts. */
const PREPARING_REFRESH_MS = 3_000;
const IDLE_REFRESH_MS = 30_000;
const RECENT = 6;

/** `?q=` is a search, `?collection=` one collection. */
export function HomePage() {
  const search = new URLSearchParams(useSearch());
  const query = search.get("q") ?? "";
  const collection = search.get("collection");
  useTitle(query === "" ? "Models" : query);
  if (query === "" && collection !== null) {
    return (
      <Suspense fallback={null}>
        <CollectionView key={collection} slug={collection} />
      </Suspense>
    );
  }
  return (
    <>
      <h1>Models</h1>
      <p className="lede">
        Pick a model, fill in its form and run it here. Everything the page does, the API does too.
      </p>
      <SearchBox asked={query} />
      {query === "" ? <Catalog /> : <SearchResults query={query} />}
    </>
  );
}

function Catalog() {
  const api = useApi();
  const models = useLoaded("models", async () => {
    const { username } = await api.account();
    const all = (await api.modelsOf(username)).results.filter((model) => model.visibility === "private");
    let next: string | undefined;
    do {
      const page = await api.models(next);
      all.push(...page.results);
      next = page.next ?? undefined;
    } while (next !== undefined);
    return all;
  });
  // Without them the models are shown all the same.
  const collections = useLoaded("collections", async () => {
    const { results } = await api.collections();
    return Promise.all(results.map(({ slug }) => api.collection(slug)));
  });
  const isPreparing = models.data?.some((model) => model.state === "preparing") === true;
  useInterval(models.reload, isPreparing ? PREPARING_REFRESH_MS : IDLE_REFRESH_MS);
  // A collection shows a model once it can run.
  const ready = models.data?.filter((model) => model.latest_version !== null).length;
  const [seenReady, setSeenReady] = useState(ready);
  useEffect(() => {
    if (ready === seenReady) return;
    setSeenReady(ready);
    if (seenReady !== undefined) collections.reload();
  }, [ready, seenReady, collections.reload]);
  const isLoading = models.data === undefined || (collections.data === undefined && collections.error === undefined);
  return (
    <>
      {models.data === undefined && models.error !== undefined ? (
        <ExplainedError error={models.error} onRetry={models.reload} />
      ) : isLoading || models.data === undefined ? (
        <p className="loading">
          <Loader size="sm" /> Loading models
        </p>
      ) : models.data.length === 0 ? (
        <Empty
          icon={<CubeIcon size={40} aria-hidden />}
          title="No models yet"
          description="Start Cogway with a folder that holds a Cog model:"
          commandLine="COGWAY_MODELS=./my-model npm start"
        />
      ) : collections.data === undefined || collections.data.length === 0 ? (
        <ModelGrid models={sorted(models.data)} />
      ) : (
        <ModelGroupsView models={sorted(models.data)} collections={collections.data} />
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
