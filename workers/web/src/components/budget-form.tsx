/** The account's own caps, and who is called before they are reached. */
import { Button } from "@cloudflare/kumo/components/button";
import { type FormEvent, useState } from "react";
import { ApiError, type Billing } from "../api.ts";
import { useApi } from "../hooks.ts";
import { ExplainedError } from "./explained.tsx";

const FIELDS = [
  { name: "day", label: "A day", hint: "Midnight to midnight, UTC" },
  { name: "month", label: "A month", hint: "From its first day, UTC" },
] as const;

/** Micro-dollars of what was typed; null for no cap, undefined for what is no amount. */
function microsOf(text: string): number | null | undefined {
  const trimmed = text.trim().replace(/^\$/, "");
  if (trimmed === "") return null;
  return /^\d{1,9}(?:\.\d{1,6})?$/.test(trimmed) ? Math.round(Number(trimmed) * 1_000_000) : undefined;
}

const textOf = (micros: number | null) => (micros === null ? "" : String(micros / 1_000_000));

export function BudgetForm({ billing, onSaved }: { billing: Billing; onSaved: () => void }) {
  const api = useApi();
  const [values, setValues] = useState({
    day: textOf(billing.budget.day_micros),
    month: textOf(billing.budget.month_micros),
    webhook: billing.alert_webhook ?? "",
  });
  const [isSaving, setSaving] = useState(false);
  const [isSaved, setSaved] = useState(false);
  const [refused, setRefused] = useState<unknown>(undefined);
  const set = (name: keyof typeof values, value: string) => {
    setValues((before) => ({ ...before, [name]: value }));
    setSaved(false);
    setRefused(undefined);
  };
  const caps = { day: microsOf(values.day), month: microsOf(values.month) };
  const isValid = caps.day !== undefined && caps.month !== undefined;
  const urlFault =
    refused instanceof ApiError
      ? refused.problem?.invalid_fields?.find(({ field }) => field === "alert_webhook")?.description
      : undefined;
  const save = async (event: FormEvent) => {
    event.preventDefault();
    if (caps.day === undefined || caps.month === undefined) return;
    setSaving(true);
    setRefused(undefined);
    try {
      await api.updateBilling({
        budget: { day_micros: caps.day, month_micros: caps.month },
        alert_webhook: values.webhook.trim() === "" ? null : values.webhook.trim(),
      });
      setSaved(true);
      onSaved();
    } catch (error) {
      setRefused(error);
    } finally {
      setSaving(false);
    }
  };
  return (
    <section className="panel" aria-labelledby="budget-title">
      <div className="panel-head">
        <h2 id="budget-title">Budgets</h2>
      </div>
      <form className="panel-body budget-form" onSubmit={(event) => void save(event)}>
        <p className="muted">
          Spending never passes a cap: what a run may cost is held before it starts, and refused where it does not fit.
          Empty is no cap.
        </p>
        <div className="budget-caps">
          {FIELDS.map(({ name, label, hint }) => (
            <label key={name}>
              <span>{label}</span>
              <span className="money-input">
                <span aria-hidden>$</span>
                <input
                  inputMode="decimal"
                  placeholder="no cap"
                  value={values[name]}
                  aria-invalid={caps[name] === undefined}
                  onChange={(event) => set(name, event.target.value)}
                />
              </span>
              <small className={caps[name] === undefined ? "field-fault" : "muted"}>
                {caps[name] === undefined ? "Dollars, such as 25 or 0.50" : hint}
              </small>
            </label>
          ))}
        </div>
        <label>
          <span>Alert webhook</span>
          <input
            type="url"
            className="text-input"
            placeholder="https://…"
            value={values.webhook}
            aria-invalid={urlFault !== undefined}
            onChange={(event) => set("webhook", event.target.value)}
          />
          <small className={urlFault === undefined ? "muted" : "field-fault"}>
            {urlFault ?? "Called at 50, 80 and 100 % of each cap, signed as your other webhooks"}
          </small>
        </label>
        {refused === undefined || urlFault !== undefined ? null : <ExplainedError error={refused} />}
        <div className="budget-actions">
          <Button type="submit" className="plain-button" variant="primary" loading={isSaving} disabled={!isValid}>
            Save budgets
          </Button>
          <span role="status" className="muted">
            {isSaved ? "Saved. It counts within five seconds." : ""}
          </span>
        </div>
      </form>
    </section>
  );
}
