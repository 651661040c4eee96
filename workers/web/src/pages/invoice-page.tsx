/** One invoice. It prints as a page of its own: what is around it stays on the screen. */
import { Button } from "@cloudflare/kumo/components/button";
import { Loader } from "@cloudflare/kumo/components/loader";
import { DownloadSimpleIcon, PrinterIcon } from "@phosphor-icons/react";
import { useState } from "react";
import type { Invoice } from "../api.ts";
import { ExplainedError } from "../components/explained.tsx";
import { dollars, number, words } from "../format.ts";
import { useApi, useLoaded } from "../hooks.ts";
import { BILLING_PATH } from "../route.ts";
import { Link } from "../router.tsx";
import { saveAs } from "../save-as.ts";
import { useTitle } from "../use-title.ts";
import { monthName } from "./billing-page.tsx";

export default function InvoicePage({ month }: { month: string }) {
  useTitle(`Invoice ${month}`);
  const api = useApi();
  const invoice = useLoaded(`invoice ${month}`, () => api.invoice(month));
  const [isSaving, setSaving] = useState(false);
  const [refused, setRefused] = useState<unknown>(undefined);
  const download = async () => {
    setSaving(true);
    setRefused(undefined);
    try {
      saveAs(await api.invoiceCsv(month), `invoice-${month}.csv`);
    } catch (error) {
      setRefused(error);
    } finally {
      setSaving(false);
    }
  };
  if (invoice.data === undefined) {
    return invoice.error === undefined ? (
      <p className="loading">
        <Loader size="sm" /> Loading the invoice
      </p>
    ) : (
      <>
        <p className="crumbs">
          <Link href={BILLING_PATH}>Billing</Link>
        </p>
        <ExplainedError error={invoice.error} onRetry={invoice.reload} />
      </>
    );
  }
  return (
    <article className="invoice">
      <p className="crumbs no-print">
        <Link href={BILLING_PATH}>Billing</Link> <span aria-hidden>/</span> {month}
      </p>
      <header className="invoice-head">
        <div>
          <h1>
            {invoice.data.is_final ? "Invoice" : "So far in"} {monthName(month)}
          </h1>
          <p className="muted">
            For {invoice.data.account}, in US dollars.
            {invoice.data.is_final ? "" : " The month is not over: this grows until it is."}
          </p>
        </div>
        <div className="invoice-actions no-print">
          <Button icon={DownloadSimpleIcon} loading={isSaving} onClick={() => void download()}>
            CSV
          </Button>
          <Button icon={PrinterIcon} onClick={() => print()}>
            Print
          </Button>
        </div>
      </header>
      {refused === undefined ? null : <ExplainedError error={refused} />}
      <Lines invoice={invoice.data} />
      <Sums invoice={invoice.data} />
      <p className="muted invoice-note">
        Each amount is the sum of rows that are rounded to the micro-dollar one by one. The CSV has every row, and
        computes again in a spreadsheet: <a href="/docs/billing#in-a-spreadsheet">how that works</a>.
      </p>
    </article>
  );
}

function Lines({ invoice }: { invoice: Invoice }) {
  if (invoice.lines.length === 0) return <p className="muted">Nothing was charged in this month.</p>;
  return (
    <div className="table-scroll">
      <table className="usage-table">
        <thead>
          <tr>
            <th scope="col">What</th>
            <th scope="col" className="numeral">
              Quantity
            </th>
            <th scope="col" className="numeral">
              Amount
            </th>
          </tr>
        </thead>
        <tbody>
          {invoice.lines.map((line) => (
            <tr
              key={JSON.stringify([
                line.model,
                line.hardware,
                line.deployment,
                line.unit,
                line.price_micros,
                line.discount_ppm,
              ])}
            >
              <td>
                {line.deployment ?? line.model}
                <span className="muted invoice-where">
                  {line.hardware}
                  {line.deployment === null ? "" : `, deployment of ${line.model}`}
                </span>
              </td>
              <td className="numeral">
                {quantity(line)}
                <span className="muted invoice-where">
                  {price(line)}
                  {line.discount_ppm === 0 ? "" : `, −${number(line.discount_ppm / 10_000)} %`}
                </span>
              </td>
              <td className="numeral">{dollars(line.amount_micros)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

type Line = Invoice["lines"][number];

function quantity({ unit, quantity: units }: Line): string {
  if (unit === "second") return `${(units / 1_000_000).toLocaleString("en-US", { maximumFractionDigits: 6 })} s`;
  return `${units.toLocaleString("en-US")} ${words(unit).toLowerCase()}${units === 1 ? "" : "s"}`;
}

function price({ unit, price_micros, per }: Line): string {
  if (unit === "second") return `${dollars((price_micros * 1_000_000) / per)} / s`;
  return `${dollars(price_micros)} / ${per === 1 ? "" : `${per.toLocaleString("en-US")} `}${words(unit).toLowerCase()}${per === 1 ? "" : "s"}`;
}

function Sums({ invoice }: { invoice: Invoice }) {
  const rows: [string, number][] = [
    ["Charges", invoice.charges_micros],
    ["Volume discount", -invoice.volume_discount_micros],
    ["Missing to the commitment", invoice.commitment_shortfall_micros],
    ["Free credits", -invoice.credits_used_micros],
    ["Payments", -invoice.payments_micros],
    ["Corrections", -invoice.adjustments_micros],
  ];
  return (
    <dl className="invoice-sums">
      {rows
        .filter(([name, micros]) => name === "Charges" || micros !== 0)
        .map(([name, micros]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd className="numeral">{signed(micros)}</dd>
          </div>
        ))}
      <div className="invoice-due">
        <dt>{invoice.due_micros < 0 ? "In your favour" : "Due"}</dt>
        <dd className="numeral">{dollars(Math.abs(invoice.due_micros))}</dd>
      </div>
    </dl>
  );
}

const signed = (micros: number) => (micros < 0 ? `−${dollars(-micros)}` : dollars(micros));
