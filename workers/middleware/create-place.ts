/** Lets a bounded number of creates be admitted at once (domain/create-places.ts). What is refused has cost no call and no byte of its body. */
import type { MiddlewareHandler } from "hono";
import { AppError } from "../../schema/problems.ts";
import { CreatePlaces } from "../domain/create-places.ts";
import type { AppEnv } from "../env.ts";
import { callerOf } from "./authenticate.ts";
import { isCreate } from "./read-limit.ts";

const places = new CreatePlaces();

export const takeCreatePlace: MiddlewareHandler<AppEnv> = async (c, next) => {
  if (!isCreate(c)) return next();
  const entry = places.enter(callerOf(c).account_id);
  if (entry.kind === "refused") {
    const { retry_after_s: retry_after } = entry;
    const detail = `More predictions are created than this server admits. Yours are served in about ${retry_after} s: send this one again then.`;
    throw new AppError("edge.busy", detail, { retry_after });
  }
  for (let ms = entry.wait_ms(); ms > 0; ms = entry.wait_ms()) await scheduler.wait(ms);
  // The use case gives it back once it is admitted: a caller may wait a minute for the output.
  c.set("admitted", entry.leave);
  try {
    await next();
  } finally {
    entry.leave();
  }
};
