/** The page's addresses: few enough to need no library. */
export type Route =
  | { page: "home" }
  | { page: "predictions" }
  | { page: "prediction"; id: string }
  | { page: "model"; owner: string; name: string }
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
  if (parts.length !== 2 || second === undefined) return { page: "not-found" };
  if (first === "p") return { page: "prediction", id: second };
  return { page: "model", owner: first, name: second };
}

export const modelPath = (model: { owner: string; name: string }) =>
  `/${encodeURIComponent(model.owner)}/${encodeURIComponent(model.name)}`;
export const PREDICTIONS_PATH = "/p";
export const predictionPath = (id: string) => `${PREDICTIONS_PATH}/${encodeURIComponent(id)}`;
