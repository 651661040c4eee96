/** What the run may cost, beside the button that starts it: asked anew when the form has stood still. */
import { useEffect, useState } from "react";
import type { Estimate, Model } from "../api.ts";
import { dollars, words } from "../format.ts";
import { useApi } from "../hooks.ts";

/** After the last change of the form. */
const SETTLE_MS = 600;

export function EstimateNote({
  model,
  version,
  input,
}: {
  model: Model;
  /** null is the latest */
  version: string | null;
  input: Record<string, unknown>;
}) {
  const api = useApi();
  const [estimate, setEstimate] = useState<Estimate | null>(null);
  const key = JSON.stringify(input);
  useEffect(() => {
    let isCurrent = true;
    const timer = setTimeout(() => {
      const named = version === null ? { model: `${model.owner}/${model.name}` } : { version };
      // An input that is not finished has no estimate: the form itself says what it lacks.
      api.estimate({ ...named, input: JSON.parse(key) as Record<string, unknown> }).then(
        (found) => isCurrent && setEstimate(found),
        () => isCurrent && setEstimate(null),
      );
    }, SETTLE_MS);
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [api, model.owner, model.name, version, key]);
  if (estimate === null) return <p className="estimate" aria-hidden />;
  return (
    <details className="estimate">
      <summary>{sentence(estimate)}</summary>
      <p>{estimate.basis.summary}</p>
      {estimate.basis.runs === 0 || estimate.worst === 0 ? null : (
        <p>
          Nothing it does costs more than {dollars(estimate.basis.limit)}, since it ends by its deadline. A lower limit
          is the header <code>Cogway-Max-Cost</code>.
        </p>
      )}
    </details>
  );
}

function sentence({ expected, worst, basis }: Estimate): string {
  if (basis.billing === "online") {
    return `Paid by its instances${basis.online === null ? "" : `, ${dollars(basis.online.hour_micros)} an hour each`}`;
  }
  if (worst === 0) return "Free";
  const prices = basis.lines.map(priceOf).join(", ");
  if (expected === worst) return `Costs ${dollars(expected)} (${prices})`;
  return `About ${dollars(expected)}, ${dollars(worst)} at worst (${prices})`;
}

function priceOf({ unit, price_micros, per }: Estimate["basis"]["lines"][number]): string {
  if (unit === "second") return `${dollars((price_micros * 1_000_000) / per)} a second`;
  return `${dollars(price_micros)} for ${per === 1 ? "one" : per.toLocaleString("en-US")} ${words(unit).toLowerCase()}${per === 1 ? "" : "s"}`;
}
