/** The deliveries of a prediction's or training's webhooks, and a way to send one again. */
import { Button } from "@cloudflare/kumo/components/button";
import { Loader } from "@cloudflare/kumo/components/loader";
import { PaperPlaneTiltIcon } from "@phosphor-icons/react";
import { useState } from "react";
import { ApiError, hasEnded, type Prediction, type WebhookEvent } from "../api.ts";
import { explainAttempt, explainEventState } from "../explain-webhook.ts";
import { dateTimeSeconds, duration, words } from "../format.ts";
import { useApi, useInterval, useLoaded, useNow } from "../hooks.ts";
import { ExplainedError } from "./explained.tsx";

/** While the prediction runs or something is still to be sent. */
const REFRESH_MS = 3_000;
const CLOCK_MS = 1_000;

export function WebhookPanel({ prediction }: { prediction: Prediction }) {
  const api = useApi();
  const log = useLoaded(`webhooks ${prediction.id}`, () => api.webhooks(prediction));
  const isOpen = !hasEnded(prediction) || log.data?.results.some((event) => event.state === "pending") === true;
  useInterval(log.reload, isOpen ? REFRESH_MS : null);
  return (
    <section className="panel webhooks" aria-labelledby="webhooks-title">
      <div className="panel-head">
        <h2 id="webhooks-title">Webhooks</h2>
        <a href="/docs/webhooks" className="quiet-link">
          How they are sent
        </a>
      </div>
      <div className="panel-body">
        <p className="webhook-url">
          <span className="muted">To</span> <span className="mono">{prediction.webhook}</span>
        </p>
        {log.data === undefined ? (
          log.error === undefined ? (
            <p className="loading">
              <Loader size="sm" /> Loading the deliveries
            </p>
          ) : log.error instanceof ApiError && log.error.status === 404 ? (
            <p className="muted">Its deliveries are forgotten: they are kept for a day after its data.</p>
          ) : (
            <ExplainedError error={log.error} onRetry={log.reload} />
          )
        ) : log.data.results.length === 0 ? (
          <p className="muted">Nothing has been sent yet.</p>
        ) : (
          <ul className="webhook-events">
            {log.data.results.map((event) => (
              <Event key={event.id} event={event} prediction={prediction} onSent={log.reload} />
            ))}
          </ul>
        )}
      </div>
    </section>
  );
}

function Event({ event, prediction, onSent }: { event: WebhookEvent; prediction: Prediction; onSent: () => void }) {
  const api = useApi();
  const now = useNow(event.state === "pending" ? CLOCK_MS : null);
  const [isSending, setSending] = useState(false);
  const [outcome, setOutcome] = useState<string | null>(null);
  const [refused, setRefused] = useState<unknown>(undefined);
  const send = async () => {
    setSending(true);
    setRefused(undefined);
    setOutcome(null);
    try {
      const { attempts } = await api.replayWebhook(prediction, event.id);
      const last = attempts.at(-1);
      setOutcome(last === undefined ? "Sent" : `${explainAttempt(last)} (${duration(last.duration_ms)})`);
      onSent();
    } catch (error) {
      setRefused(error);
    } finally {
      setSending(false);
    }
  };
  return (
    <li className="webhook-event">
      <div className="webhook-event-head">
        <h3>{words(event.event)}</h3>
        <span className="webhook-state" data-state={event.state}>
          {explainEventState(event, now)}
        </span>
        <span role="status" className="muted webhook-outcome">
          {outcome === null ? "" : `Sent again: ${outcome}`}
        </span>
        <Button
          size="sm"
          icon={PaperPlaneTiltIcon}
          loading={isSending}
          aria-label={`Send ${event.event} again`}
          onClick={() => void send()}
        >
          Send again
        </Button>
      </div>
      {refused === undefined ? null : <ExplainedError error={refused} />}
      {event.attempts.length === 0 ? null : (
        <div className="table-scroll">
          <table>
            <thead>
              <tr>
                <th scope="col">Attempt</th>
                <th scope="col">Answer</th>
                <th scope="col" className="numeral">
                  Took
                </th>
              </tr>
            </thead>
            <tbody>
              {event.attempts.map((attempt) => (
                <tr key={attempt.at}>
                  <td>
                    <time dateTime={attempt.at}>{dateTimeSeconds(attempt.at)}</time>
                    {attempt.is_replay ? <span className="muted"> sent again</span> : null}
                  </td>
                  <td className={attempt.error === null ? undefined : "glimpse-error"}>{explainAttempt(attempt)}</td>
                  <td className="numeral">{duration(attempt.duration_ms)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </li>
  );
}
