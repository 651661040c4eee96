/** How a version has run lately, in words: what a caller may expect of it, and whether its example still works. */
import type { Model, Version } from "../api.ts";
import { ago, count, dateTime, duration } from "../format.ts";
import { useNow } from "../hooks.ts";
import { Explained } from "./explained.tsx";

const CLOCK_MS = 30_000;
/** A longer text takes a line of its own. */
const WIDE_CHARACTERS = 30;

type Health = NonNullable<Version["health"]>;

/** Above the form: whoever fills it in shall know before. */
export function UnhealthyNote({ model }: { model: Model }) {
  if (model.unhealthy_since === null) return null;
  const error = model.latest_version?.health?.last_error ?? null;
  return (
    <Explained
      tone="note"
      explanation={{
        title: "This model is unhealthy",
        detail: `Its own example is run once a day, and has failed every time since ${dateTime(model.unhealthy_since)}. Runs of yours will likely fail too. The mark goes with the first success.${error === null ? "" : ` It fails with: ${error}`}`,
      }}
    />
  );
}

export function VersionRecord({ version }: { version: Version }) {
  const now = useNow(CLOCK_MS);
  const { history = null, health = null } = version;
  if (history === null && health === null) return null;
  const facts: [string, string][] = [];
  if (history !== null) {
    facts.push(["Succeed", share(history.success_share)]);
    facts.push(["Typical run", time(history.run_p50_ms)]);
    facts.push(["Cold starts", share(history.cold_start_share)]);
    if (history.boot_p50_ms !== null || history.setup_p50_ms !== null) {
      facts.push(["A cold start takes", coldStart(history.boot_p50_ms, history.setup_p50_ms)]);
    }
    facts.push(["Wait in line", time(history.queue_p50_ms)]);
    facts.push(["Last success", history.last_success_at === null ? "None yet" : ago(history.last_success_at, now)]);
  }
  if (health !== null) facts.push(["Daily check", check(health, now)]);
  return (
    <section className="version-record" aria-labelledby="version-record-title">
      <h2 id="version-record-title">How it runs</h2>
      <p className="muted">
        {history === null
          ? "Nobody has run this version yet."
          : `Of its latest ${count(history.runs, "run", "runs")}, newer ones weighing more. Times are medians.`}
      </p>
      <dl className="facts">
        {facts.map(([name, value]) => (
          <div key={name} {...(value.length > WIDE_CHARACTERS ? { "data-wide": true } : {})}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

const share = (value: number | null) => (value === null ? "Not known yet" : `${percent(value)} of runs`);
const time = (ms: number | null) => (ms === null ? "Not known yet" : duration(ms));

/** Never rounded to all or none. */
function percent(value: number): string {
  const whole = Math.round(value * 100);
  if (whole === 100 && value < 1) return "more than 99 %";
  if (whole === 0 && value > 0) return "less than 1 %";
  return `${whole} %`;
}

function coldStart(boot_ms: number | null, setup_ms: number | null): string {
  const parts = [
    ...(boot_ms === null ? [] : [`${duration(boot_ms)} to start`]),
    ...(setup_ms === null ? [] : [`${duration(setup_ms)} to load the model`]),
  ];
  return parts.join(", ");
}

function check(health: Health, now: number): string {
  const [newest] = health.runs;
  if (newest === undefined) return "Not run yet";
  if (newest.outcome === "not_run") return `Not run. ${newest.detail ?? ""}`;
  const ended = health.runs.find(({ outcome }) => outcome === "succeeded" || outcome === "failed");
  if (ended === undefined) return `Not run yet. ${newest.detail ?? ""}`;
  if (ended.outcome === "succeeded") return `Its example worked ${ago(ended.at, now)}`;
  const times = health.failures_in_row === 1 ? "once" : `${health.failures_in_row} times in a row`;
  return `Its example failed ${times}, last ${ago(ended.at, now)}`;
}
