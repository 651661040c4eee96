/** A model: what it is, a form to run it, what came out, and how to call it from a program; its versions and builds (`?show=`). */
import { Loader } from "@cloudflare/kumo/components/loader";
import type { BuildSummary, Model, Page } from "../api.ts";
import { BuildList } from "../components/build-list.tsx";
import { BuildView } from "../components/build-view.tsx";
import { ExampleGallery } from "../components/example-gallery.tsx";
import { Explained, ExplainedError } from "../components/explained.tsx";
import { Markdown } from "../components/markdown.tsx";
import { ModelMarks } from "../components/model-card.tsx";
import { PushGuide } from "../components/push-guide.tsx";
import { UnhealthyNote, VersionRecord } from "../components/version-record.tsx";
import { VersionsView } from "../components/versions-view.tsx";
import { Workbench } from "../components/workbench.tsx";
import { count, dateTime, words } from "../format.ts";
import { fullName } from "../group-models.ts";
import { type Loaded, useApi, useInterval, useLoaded } from "../hooks.ts";
import { MODEL_VIEWS, type ModelView, modelPath, modelViewOf, modelViewPath, versionPath } from "../route.ts";
import { Link, navigate, useSearch } from "../router.tsx";
import { useTitle } from "../use-title.ts";

/** It sees the builds of every model, and changes its own alone. */
const OPERATOR = "cogway";
/** While the version or its example is still being made. */
const COMING_REFRESH_MS = 3_000;

function isExampleRunning(model: Model | undefined): boolean {
  const status = model?.default_example?.status;
  return status === "starting" || status === "processing";
}

export default function ModelPage({ owner, name }: { owner: string; name: string }) {
  useTitle(`${owner}/${name}`);
  const api = useApi();
  const model = useLoaded(`model ${owner}/${name}`, () => api.model(owner, name));
  const isComing = model.data?.state === "preparing" || isExampleRunning(model.data);
  useInterval(model.reload, isComing ? COMING_REFRESH_MS : null);
  if (model.data === undefined) {
    return model.error === undefined ? (
      <p className="loading">
        <Loader size="sm" /> Loading the model
      </p>
    ) : (
      <ExplainedError error={model.error} onRetry={model.reload} />
    );
  }
  return (
    <>
      <ModelHead model={model.data} />
      <UnhealthyNote model={model.data} />
      <Views model={model.data} onChanged={model.reload} />
    </>
  );
}

function Views({ model, onChanged }: { model: Model; onChanged: () => void }) {
  const api = useApi();
  const search = useSearch();
  const view = modelViewOf(search);
  const account = useLoaded("account", api.account);
  // Refused to all but the model's people and the operator.
  const builds = useLoaded(`builds ${fullName(model)}`, () => api.builds(model.owner, model.name));
  const seesBuilds = builds.data !== undefined;
  const reader = account.data?.username;
  const mayChange = seesBuilds && reader !== undefined && (reader === model.owner || reader !== OPERATOR);
  const shown = MODEL_VIEWS.filter((one) => one !== "builds" || seesBuilds || view === "builds");
  return (
    <>
      <nav className="run-kinds" aria-label="Of this model">
        {shown.map((one) => (
          <Link key={one} href={modelViewPath(model, one)} {...(one === view ? { "aria-current": "page" } : {})}>
            {words(one)}
          </Link>
        ))}
      </nav>
      <View view={view} search={search} rights={{ mayChange, seesBuilds }} {...{ model, builds, onChanged }} />
    </>
  );
}

function View({
  view,
  search,
  model,
  builds,
  rights,
  onChanged,
}: {
  view: ModelView;
  search: string;
  model: Model;
  builds: Loaded<Page<BuildSummary>>;
  rights: { mayChange: boolean; seesBuilds: boolean };
  onChanged: () => void;
}) {
  switch (view) {
    case "run":
      return (
        <>
          {model.latest_version === null ? (
            <NoVersion model={model} mayChange={rights.mayChange} />
          ) : (
            <VersionChosen model={model} />
          )}
          {model.latest_version === null ? null : <VersionRecord version={model.latest_version} />}
          <Readme owner={model.owner} name={model.name} />
        </>
      );
    case "versions":
      return <VersionsView model={model} {...rights} onChanged={onChanged} />;
    case "builds": {
      const id = new URLSearchParams(search).get("build");
      if (id === null) return <BuildList model={model} first={builds} />;
      const onEnded = () => {
        builds.reload();
        onChanged();
      };
      return <BuildView model={model} id={id} mayChange={rights.mayChange} onEnded={onEnded} />;
    }
  }
}

function ModelHead({ model }: { model: Model }) {
  return (
    <header className="model-head">
      <p className="crumbs">
        <Link href="/">Models</Link> <span aria-hidden>/</span> {model.owner} <span aria-hidden>/</span> {model.name}
      </p>
      <h1>{model.title ?? words(model.name)}</h1>
      {model.description === null ? null : <p className="lede">{model.description}</p>}
      <ul className="model-facts">
        {model.latest_version === null ? null : <li>{count(model.run_count, "run", "runs")}</li>}
        {model.is_official || model.unhealthy_since !== null || model.stable || model.visibility === "private" ? (
          <li className="model-marks">
            <ModelMarks model={model} />
          </li>
        ) : null}
        {model.weights_license === null ? null : <li>Weights: {model.weights_license}</li>}
        {model.tags.map((tag) => (
          <li key={tag} className="tag">
            {tag}
          </li>
        ))}
      </ul>
    </header>
  );
}

function NoVersion({ model, mayChange }: { model: Model; mayChange: boolean }) {
  if (model.state === "preparing") {
    return (
      <div className="explained" data-tone="note" role="status">
        <Loader size="sm" />
        <div>
          <p className="explained-title">This model is being prepared</p>
          <p className="explained-detail">
            {model.state_reason ??
              "Its environment is being made. That happens once; the form appears here when it is done."}
          </p>
        </div>
      </div>
    );
  }
  if (model.state === "failed" || model.state_reason !== undefined) {
    return (
      <Explained
        explanation={{
          title: model.state === "failed" ? "This model cannot run here" : "This model has no version yet",
          detail: model.state_reason ?? "The machine that prepared it says why in its log.",
        }}
      />
    );
  }
  return mayChange ? (
    <PushGuide model={fullName(model)} title="This model has no version yet">
      Push a folder, and the form to run it shows up here. Pushes that go on, or failed, are under{" "}
      <Link href={modelViewPath(model, "builds")}>Builds</Link>.
    </PushGuide>
  ) : (
    <p className="muted view-empty">This model has no version yet, so there is nothing to run.</p>
  );
}

/** `?version=` names another version than the latest, `?from=` a prediction whose input fills the form, `?example=` an example that is shown with its output. */
function VersionChosen({ model }: { model: Model }) {
  const api = useApi();
  const search = new URLSearchParams(useSearch());
  const latest = model.latest_version;
  const asked = search.get("version");
  const from = search.get("from");
  const exampleId = search.get("example");
  const versions = useLoaded(`versions ${model.owner}/${model.name}`, () => api.versions(model.owner, model.name));
  const source = useLoaded(`input ${from ?? ""}`, async () => (from === null ? null : await api.prediction(from)));
  const examples = useLoaded(`examples ${model.owner}/${model.name}`, () => api.examples(model.owner, model.name));
  if (latest === null) return null;
  const chosen = examples.data?.results.find((one) => one.id === exampleId);
  const known = versions.data?.results ?? [latest];
  const version = known.find((one) => one.id === (asked ?? chosen?.version)) ?? latest;
  const isLatest = version.id === latest.id;
  if (
    (exampleId !== null && examples.data === undefined && examples.error === undefined) ||
    (asked !== null && versions.data === undefined && versions.error === undefined) ||
    (from !== null && source.data === undefined && source.error === undefined)
  ) {
    return <Loader size="sm" />;
  }
  const choose = (id: string) => navigate(id === latest.id ? modelPath(model) : versionPath(model, id));
  return (
    <>
      {known.length > 1 ? (
        <label className="version-choice">
          <span>Version</span>
          <select value={version.id} onChange={(event) => choose(event.target.value)}>
            {known.map((one) => (
              <option key={one.id} value={one.id}>
                {one.id.slice(0, 12)} · {dateTime(one.created_at)}
                {one.id === latest.id ? " · latest" : ""}
              </option>
            ))}
          </select>
        </label>
      ) : null}
      <Workbench
        key={`${version.id} ${from ?? ""} ${exampleId ?? ""}`}
        model={model}
        version={version}
        isLatest={isLatest}
        example={chosen ?? (isLatest ? model.default_example : null)}
        startInput={source.data?.data_removed === false ? source.data.input : null}
      />
      <ExampleGallery model={model} examples={examples.data?.results ?? []} shown={chosen?.id ?? null} />
    </>
  );
}

function Readme({ owner, name }: { owner: string; name: string }) {
  const api = useApi();
  const readme = useLoaded(`readme ${owner}/${name}`, () => api.readme(owner, name));
  if (!readme.data) return null;
  return (
    <section className="readme" aria-label="README">
      <Markdown text={withoutTitle(readme.data)} />
    </section>
  );
}

/** The page has said the model's name already. */
const withoutTitle = (markdown: string) => markdown.replace(/^\s*# [^\n]*\n/, "");
