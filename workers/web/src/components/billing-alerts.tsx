/** What the account was told: caps that are near or reached, and deployments that cost money and run nothing. */
import type { Billing } from "../api.ts";
import { ago, count, dateTime, dollars } from "../format.ts";
import { useNow } from "../hooks.ts";
import { Explained } from "./explained.tsx";

const CLOCK_MS = 30_000;
const SHOWN_MAX = 8;
const STATES: Record<Billing["alerts"][number]["state"], string> = {
  pending: "Being sent",
  delivered: "Sent",
  failed: "Its webhook never answered",
  shown: "Shown here only: there is no alert webhook",
};

export function BillingAlerts({ billing }: { billing: Billing }) {
  const now = useNow(CLOCK_MS);
  const { alerts, idle_deployments } = billing;
  return (
    <section className="panel" aria-labelledby="alerts-title">
      <div className="panel-head">
        <h2 id="alerts-title">Alerts</h2>
      </div>
      <div className="panel-body billing-alerts">
        {idle_deployments.map(({ deployment, idle_since, instances, hour_micros }) => (
          <Explained
            key={deployment}
            tone="note"
            explanation={{
              title: `${deployment} runs nothing and costs ${dollars(hour_micros)} an hour`,
              detail: `Its ${count(instances, "instance is", "instances are")} online, and nothing has used them since ${dateTime(idle_since)}. Set its min_instances to 0 if nothing needs them.`,
            }}
          />
        ))}
        {alerts.length === 0 && idle_deployments.length === 0 ? (
          <p className="muted">Nothing to tell: no cap is near, and no deployment is left idle.</p>
        ) : null}
        {alerts.length === 0 ? null : (
          <ul className="alert-list">
            {alerts.slice(0, SHOWN_MAX).map((alert) => (
              <li key={alert.id}>
                <p>{alert.detail}</p>
                <p className="muted">
                  <time dateTime={alert.created_at} title={dateTime(alert.created_at)}>
                    {ago(alert.created_at, now)}
                  </time>
                  {" · "}
                  {STATES[alert.state]}
                </p>
              </li>
            ))}
          </ul>
        )}
      </div>
    </section>
  );
}
