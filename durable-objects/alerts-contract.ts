/** What the AccountObject is asked about alerts (part of AccountApi): plain data over native RPC. */

export type AlertType = "budget.threshold" | "deployment.idle" | "model.unhealthy";

export interface Alert {
  /** the header `webhook-id` of its calls */
  id: string;
  type: AlertType;
  created_at: number;
  /** for people */
  detail: string;
  /** `shown`: there was no webhook to call */
  state: "pending" | "delivered" | "failed" | "shown";
  attempts: number;
  data: Record<string, unknown>;
}

/** A deployment that is paid for and runs nothing. */
export interface IdleDeployment {
  /** owner/name of the deployment, or of the private model */
  deployment: string;
  idle_since: number;
  instances: number;
  /** micro-dollars that an hour of its instances costs */
  hour_micros: number;
}

/** A public model whose canaries fail and that nobody uses. */
export interface ForsakenModel {
  /** owner/name */
  model: string;
  version: string;
  unhealthy_since: number;
  /** when anybody ran it last, as far as that is known */
  used_at: number;
  error: string | null;
}

export interface AlertsApi {
  /** Told once for each unhealthy spell of a model. Idempotent by (model, unhealthy_since). `webhook`: the account's alert webhook. */
  modelUnhealthy(model: ForsakenModel, webhook: string | null): Promise<void>;
  /** A deployment has run nothing for long, told once for each idle spell. Idempotent by (deployment, idle_since). */
  deploymentIdle(idle: IdleDeployment): Promise<void>;
  /** It runs again, or has no instances any more. Idempotent. */
  deploymentBusy(deployment: string): Promise<void>;
  /** Newest alerts first, and what is idle now. */
  alerts(): Promise<{ alerts: Alert[]; idle: IdleDeployment[] }>;
}
