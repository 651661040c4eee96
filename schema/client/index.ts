/**
 * A typed client for what Replicate's own clients lack: tokens, organizations, shares, batches, builds, estimates, usage, invoices, the log and replay of webhooks, releases, retention, streams
 * that resume, and waits that end. Only `fetch` is needed: it runs in browsers, Workers and Node. For everything else use Replicate's clients.
 */
import { deployments, organizations, shares, tokens, webhooks } from "./accounts.ts";
import { billing, estimates } from "./billing.ts";
import { builds } from "./builds.ts";
import { type ClientOptions, Http } from "./http.ts";
import { batches, predictions, trainings } from "./runs.ts";

export type { CreatedToken, Deployment, Member, Organization, Release, Share, Token } from "./accounts.ts";
export type { Billing, Estimate, Invoice, InvoiceSummary, LedgerEntry, Usage } from "./billing.ts";
export type { Build, BuildEvent, BuildSummary } from "./builds.ts";
export { type ClientCode, CogwayError } from "./error.ts";
export type { PredictionEvent } from "./events.ts";
export type { CallOptions, ClientOptions } from "./http.ts";
export type {
  Batch,
  BatchResult,
  CreateOptions,
  Prediction,
  PredictionRequest,
  Training,
  WebhookEvent,
} from "./runs.ts";
export type { WaitOptions } from "./wait.ts";

export class Cogway {
  readonly predictions: ReturnType<typeof predictions>;
  readonly trainings: ReturnType<typeof trainings>;
  readonly batches: ReturnType<typeof batches>;
  readonly builds: ReturnType<typeof builds>;
  readonly webhooks: ReturnType<typeof webhooks>;
  readonly deployments: ReturnType<typeof deployments>;
  readonly shares: ReturnType<typeof shares>;
  readonly tokens: ReturnType<typeof tokens>;
  readonly organizations: ReturnType<typeof organizations>;
  readonly estimates: ReturnType<typeof estimates>;
  readonly billing: ReturnType<typeof billing>;

  constructor(options: ClientOptions) {
    const http = new Http(options);
    this.predictions = predictions(http);
    this.trainings = trainings(http);
    this.batches = batches(http);
    this.builds = builds(http);
    this.webhooks = webhooks(http);
    this.deployments = deployments(http);
    this.shares = shares(http);
    this.tokens = tokens(http);
    this.organizations = organizations(http);
    this.estimates = estimates(http);
    this.billing = billing(http);
  }
}
