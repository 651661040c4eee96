/** What the account spends: where it stands against its caps, day by day, on what, its invoices, and the budgets that it sets. */
import { Empty } from "@cloudflare/kumo/components/empty";
import { Loader } from "@cloudflare/kumo/components/loader";
import { ReceiptIcon } from "@phosphor-icons/react";
import { lazy, Suspense, useState } from "react";
import type { Billing, Usage } from "../api.ts";
import { BillingAlerts } from "../components/billing-alerts.tsx";
import { BudgetForm } from "../components/budget-form.tsx";
import { ExplainedError } from "../components/explained.tsx";
import { count, dateTime, dollars, duration, words } from "../format.ts";
import { useApi, useInterval, useLoaded } from "../hooks.ts";
import { invoicePath } from "../route.ts";
import { Link } from "../router.tsx";
import { useTitle } from "../use-title.ts";

// The plot's library is only needed where something was spent.
const SpendChart = lazy(() => import("../components/spend-chart.tsx"));

const REFRESH_MS = 15_000;
const DAY_MS = 86_400_000;
/** Days that the chart and the tables look back. */
const DAYS = 30;
const GROUPS = ["model", "token", "deployment", "hardware"] as const;
type Group = (typeof GROUPS)[number];

export default function BillingPage() {
  useTitle("Billing");
  const api = useApi();
  const billing = useLoaded("billing", api.billing);
  useInterval(billing.reload, REFRESH_MS);
  return (
    <>
      <h1>Billing</h1>
      <p className="lede">
        What this account spends, to the micro-dollar. Days and months are those of UTC; a running prediction counts
        when it has ended. <a href="/docs/billing">How bills come about</a>
      </p>
      {billing.data === undefined ? (
        billing.error === undefined ? (
          <p className="loading">
            <Loader size="sm" /> Loading the account’s money
          </p>
        ) : (
          <ExplainedError error={billing.error} onRetry={billing.reload} />
        )
      ) : (
        <>
          {billing.error === undefined ? null : <ExplainedError error={billing.error} onRetry={billing.reload} />}
          <Standing billing={billing.data} />
          <Spending />
          <div className="bench">
            <BudgetForm billing={billing.data} onSaved={billing.reload} />
            <BillingAlerts billing={billing.data} />
          </div>
          <Invoices />
        </>
      )}
    </>
  );
}

function Standing({ billing }: { billing: Billing }) {
  const { spent, budget, balance_micros, credits, reserved_micros } = billing;
  const free = credits.reduce((sum, credit) => sum + credit.left_micros, 0);
  const ends = credits.map(({ expires_at }) => expires_at).find((at) => at !== null);
  return (
    <ul className="standing">
      <Spent name="Today" micros={spent.day_micros} cap={budget.day_micros} />
      <Spent name="This month" micros={spent.month_micros} cap={budget.month_micros} />
      <li className="standing-item">
        <h2>{balance_micros < 0 ? "Owed" : "Balance"}</h2>
        <p className="standing-amount numeral">{dollars(Math.abs(balance_micros))}</p>
        <p className="muted">{billing.billing === "prepaid" ? "Prepaid: runs need a balance" : "Paid by invoice"}</p>
      </li>
      <li className="standing-item">
        <h2>Free credits</h2>
        <p className="standing-amount numeral">{dollars(free)}</p>
        <p className="muted">
          {free === 0 ? "None left" : ends == null ? "Used before the balance" : `Used first, until ${dateTime(ends)}`}
        </p>
      </li>
      {reserved_micros === 0 ? null : (
        <li className="standing-item">
          <h2>Held</h2>
          <p className="standing-amount numeral">{dollars(reserved_micros)}</p>
          <p className="muted">For what runs, until it ends</p>
        </li>
      )}
    </ul>
  );
}

function Spent({ name, micros, cap }: { name: string; micros: number; cap: number | null }) {
  const share = cap === null || cap === 0 ? null : micros / cap;
  const tone = cap !== null && micros >= cap ? "full" : share !== null && share >= 0.8 ? "near" : "fine";
  return (
    <li className="standing-item">
      <h2>{name}</h2>
      <p className="standing-amount numeral">{dollars(micros)}</p>
      {cap === null ? (
        <p className="muted">No cap</p>
      ) : (
        <>
          <progress aria-label={`${name} against its cap`} data-tone={tone} max={cap} value={Math.min(micros, cap)} />
          <p className="muted">
            {share === null ? "" : `${Math.floor(share * 100)} % `}of {dollars(cap)}
          </p>
        </>
      )}
    </li>
  );
}

function Spending() {
  const api = useApi();
  const [group, setGroup] = useState<Group>("model");
  const [now] = useState(Date.now);
  const range = { from: dayOf(now - (DAYS - 1) * DAY_MS), to: dayOf(now) };
  const days = useLoaded("usage by day", () => api.usage({ ...range, group_by: "day" }));
  const groups = useLoaded(`usage by ${group}`, () => api.usage({ ...range, group_by: group }));
  useInterval(() => {
    days.reload();
    groups.reload();
  }, REFRESH_MS);
  if (days.data === undefined) {
    return days.error === undefined ? (
      <p className="loading">
        <Loader size="sm" /> Loading what was spent
      </p>
    ) : (
      <ExplainedError error={days.error} onRetry={days.reload} />
    );
  }
  const total = days.data.total_micros;
  return (
    <section className="panel billing-section" aria-labelledby="spending-title">
      <div className="panel-head">
        <h2 id="spending-title">The last {DAYS} days</h2>
        <span className="muted numeral">{dollars(total)}</span>
      </div>
      <div className="panel-body">
        {total === 0 && days.data.results.length === 0 ? (
          <Empty
            size="sm"
            title="Nothing was charged yet"
            description="Run a model: what it costs is on its prediction when it ends, and here."
            contents={
              <Link href="/" className="quiet-link">
                See the models
              </Link>
            }
          />
        ) : (
          <>
            <Suspense fallback={<div className="plot-canvas" />}>
              <SpendChart usage={days.data} />
            </Suspense>
            <nav className="run-kinds" aria-label="Spent by">
              {GROUPS.map((one) => (
                <button
                  key={one}
                  type="button"
                  aria-current={one === group ? "true" : undefined}
                  onClick={() => setGroup(one)}
                >
                  {words(one)}
                </button>
              ))}
            </nav>
            {groups.data === undefined ? (
              groups.error === undefined ? (
                <p className="loading">
                  <Loader size="sm" /> Loading
                </p>
              ) : (
                <ExplainedError error={groups.error} onRetry={groups.reload} />
              )
            ) : (
              <UsageTable usage={groups.data} group={group} />
            )}
          </>
        )}
      </div>
    </section>
  );
}

/** What stands where a charge has none of its kind. */
const NONE: Record<Group, string> = {
  model: "No model",
  token: "No token: instances that were online",
  deployment: "Shared hardware",
  hardware: "No hardware",
};

function UsageTable({ usage, group }: { usage: Usage; group: Group }) {
  return (
    <div className="table-scroll">
      <table className="usage-table">
        <thead>
          <tr>
            <th scope="col">{words(group)}</th>
            <th scope="col" className="numeral">
              Predictions
            </th>
            <th scope="col" className="numeral wide-only">
              Paid time
            </th>
            <th scope="col" className="numeral">
              Cost
            </th>
          </tr>
        </thead>
        <tbody>
          {usage.results.map((row) => (
            <tr key={row[group] ?? ""}>
              <td className={group === "token" ? "mono" : undefined}>
                {row[group] ?? <span className="muted">{NONE[group]}</span>}
              </td>
              <td className="numeral">{row.predictions.toLocaleString("en-US")}</td>
              <td className="numeral wide-only">{row.time_s === 0 ? "" : duration(row.time_s * 1_000)}</td>
              <td className="numeral">{dollars(row.amount_micros)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Invoices() {
  const api = useApi();
  const invoices = useLoaded("invoices", api.invoices);
  return (
    <section className="panel billing-section" aria-labelledby="invoices-title">
      <div className="panel-head">
        <h2 id="invoices-title">Invoices</h2>
        {invoices.data === undefined ? null : (
          <span className="muted">{count(invoices.data.results.length, "month", "months")}</span>
        )}
      </div>
      <div className="panel-body">
        {invoices.data === undefined ? (
          invoices.error === undefined ? (
            <p className="loading">
              <Loader size="sm" /> Loading the invoices
            </p>
          ) : (
            <ExplainedError error={invoices.error} onRetry={invoices.reload} />
          )
        ) : (
          <ul className="invoice-list">
            {invoices.data.results.map(({ month, is_final }) => (
              <li key={month}>
                <Link href={invoicePath(month)}>
                  <ReceiptIcon aria-hidden size={18} /> {monthName(month)}
                </Link>
                <span className="muted">{is_final ? "" : "so far"}</span>
              </li>
            ))}
          </ul>
        )}
      </div>
    </section>
  );
}

/** `November 2026`. */
export function monthName(month: string): string {
  return new Date(`${month}-01T00:00:00Z`).toLocaleDateString(undefined, {
    timeZone: "UTC",
    month: "long",
    year: "numeric",
  });
}

function dayOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}
