/** The page's addresses: few enough to need no library. */
export type Route =
  | { page: "home" }
  | { page: "predictions" }
  | { page: "prediction"; id: string }
  | { page: "model"; owner: string; name: string }
  | { page: "billing" }
  | { page: "invoice"; month: string }
  | { page: "status" }
  | { page: "not-found" };

export function routeOf(pathname: string): Route {
  let parts: string[];
  try {
    parts = pathname.split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    return { page: "not-found" };
  }
  const [first, second] = parts;
  if (first === undefined) return { page: "home" };
  if (first === "p" && second === undefined) return { page: "predictions" };
  if (first === "billing" && second === undefined) return { page: "billing" };
  if (first === "status" && second === undefined) return { page: "status" };
  if (parts.length !== 2 || second === undefined) return { page: "not-found" };
  if (first === "p") return { page: "prediction", id: second };
  if (first === "billing") return { page: "invoice", month: second };
  return { page: "model", owner: first, name: second };
}

export const modelPath = (model: { owner: string; name: string }) =>
  `/${encodeURIComponent(model.owner)}/${encodeURIComponent(model.name)}`;
export const versionPath = (model: { owner: string; name: string }, version: string) =>
  `${modelPath(model)}?${new URLSearchParams({ version })}`;
/** What a model's page shows beside the form; `?show=` names it. */
export const MODEL_VIEWS = ["run", "versions", "builds"] as const;
export type ModelView = (typeof MODEL_VIEWS)[number];
export const modelViewOf = (search: string): ModelView =>
  MODEL_VIEWS.find((view) => view === new URLSearchParams(search).get("show")) ?? "run";
export const modelViewPath = (model: { owner: string; name: string }, view: ModelView) =>
  view === "run" ? modelPath(model) : `${modelPath(model)}?show=${view}`;
export const buildPath = (model: { owner: string; name: string }, id: string) =>
  `${modelPath(model)}?${new URLSearchParams({ show: "builds", build: id })}`;
export const examplePath = (model: { owner: string; name: string }, id: string) =>
  `${modelPath(model)}?${new URLSearchParams({ example: id })}`;
export const BILLING_PATH = "/billing";
export const invoicePath = (month: string) => `${BILLING_PATH}/${encodeURIComponent(month)}`;
export const STATUS_PATH = "/status";
export const PREDICTIONS_PATH = "/p";
/** Of a prediction or training. */
export const predictionPath = (id: string) => `${PREDICTIONS_PATH}/${encodeURIComponent(id)}`;

/** The lists of what an account ran; `?show=` names one. */
export const RUN_KINDS = ["predictions", "trainings", "batches"] as const;
export type RunKind = (typeof RUN_KINDS)[number];
export const runKindOf = (search: string): RunKind =>
  RUN_KINDS.find((kind) => kind === new URLSearchParams(search).get("show")) ?? "predictions";
export const runsPath = (kind: RunKind) =>
  kind === "predictions" ? PREDICTIONS_PATH : `${PREDICTIONS_PATH}?show=${kind}`;
/** Without the hint a batch's id is looked up among the predictions first. */
export const batchPath = (id: string) => `${predictionPath(id)}?show=batches`;
export const searchPath = (query: string) => (query === "" ? "/" : `/?${new URLSearchParams({ q: query })}`);
export const collectionPath = (slug: string) => `/?${new URLSearchParams({ collection: slug })}`;
