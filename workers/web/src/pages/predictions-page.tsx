import { Empty } from "@cloudflare/kumo/components/empty";
import { LightningIcon } from "@phosphor-icons/react";
import { PredictionList } from "../components/prediction-list.tsx";
import { Link } from "../router.tsx";
import { useTitle } from "../use-title.ts";

export function PredictionsPage() {
  useTitle("Predictions");
  return (
    <>
      <h1>Predictions</h1>
      <p className="lede">
        All that this account ran, here and through the API. Inputs and outputs are removed after their retention time.
      </p>
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
    </>
  );
}
