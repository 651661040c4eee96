/** What the account ran: predictions, trainings and batches, each in its own list. */
import { Empty } from "@cloudflare/kumo/components/empty";
import { GraduationCapIcon, LightningIcon, StackIcon } from "@phosphor-icons/react";
import { BatchList } from "../components/batch-list.tsx";
import { PredictionList } from "../components/prediction-list.tsx";
import { words } from "../format.ts";
import { RUN_KINDS, type RunKind, runKindOf, runsPath } from "../route.ts";
import { Link, useSearch } from "../router.tsx";
import { useTitle } from "../use-title.ts";

const ABOUT: Record<RunKind, string> = {
  predictions:
    "All that this account ran, here and through the API. Inputs and outputs are removed after their retention time.",
  trainings: "Each ends as a new version of one of your models. They are started through the API.",
  batches: "One model over many inputs, behind everything else. They are started through the API.",
};

export function PredictionsPage() {
  const kind = runKindOf(useSearch());
  useTitle(words(kind));
  return (
    <>
      <h1>{words(kind)}</h1>
      <nav className="run-kinds" aria-label="What ran">
        {RUN_KINDS.map((one) => (
          <Link key={one} href={runsPath(one)} {...(one === kind ? { "aria-current": "page" } : {})}>
            {words(one)}
          </Link>
        ))}
      </nav>
      <p className="lede">{ABOUT[kind]}</p>
      <List key={kind} kind={kind} />
    </>
  );
}

function List({ kind }: { kind: RunKind }) {
  switch (kind) {
    case "predictions":
      return (
        <PredictionList
          empty={
            <Empty
              icon={<LightningIcon size={40} aria-hidden />}
              title="Nothing has run yet"
              description="Run a model, and it shows up here while it goes."
              contents={
                <Link href="/" className="quiet-link">
                  See the models
                </Link>
              }
            />
          }
        />
      );
    case "trainings":
      return (
        <PredictionList
          kind="trainings"
          empty={
            <Empty
              icon={<GraduationCapIcon size={40} aria-hidden />}
              title="Nothing was trained yet"
              description="Train a model on your own data, and its progress shows up here."
              contents={
                <a href="/docs/trainings" className="quiet-link">
                  How to train
                </a>
              }
            />
          }
        />
      );
    case "batches":
      return (
        <BatchList
          empty={
            <Empty
              icon={<StackIcon size={40} aria-hidden />}
              title="No batches yet"
              description="POST /v1/batches runs one model over many inputs."
              contents={
                <a href="/docs" className="quiet-link">
                  The API
                </a>
              }
            />
          }
        />
      );
  }
}
