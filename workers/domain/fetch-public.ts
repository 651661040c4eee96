/**
 * Bytes from an address that a user gave, for the edge itself. The text of the address is judged here, that of each redirect too; the request leaves through
 * the egress Worker, which reaches public addresses only, whatever a name resolves to.
 */
import { AppError } from "../../schema/problems.ts";
import { userUrlFault } from "../../schema/public-url.ts";
import type { Settings } from "../env.ts";

/** From the request to the answer's head, redirects included. */
const FETCH_TIMEOUT_MS = 15_000;
const REDIRECTS_MAX = 3;

/** The body of `url`: http(s) or a data URI. Throws a problem that names `field`. */
export async function fetchPublic(settings: Settings, url: string, field: string): Promise<ReadableStream<Uint8Array>> {
  const refuse = (description: string): AppError =>
    new AppError("input.invalid", `- ${field}: ${description}\n`, {
      invalid_fields: [{ type: "format", field, description }],
    });
  const signal = AbortSignal.timeout(FETCH_TIMEOUT_MS);
  let next = url;
  for (let hops = 0; hops <= REDIRECTS_MAX; hops++) {
    const isData = hops === 0 && /^data:/i.test(next);
    const reason = isData ? null : userUrlFault(next, settings.allowPrivateCidrs);
    if (reason !== null) throw refuse(`cannot be fetched: ${reason}`);
    let answer: Response;
    try {
      answer = await fetch(next, { redirect: "manual", signal });
    } catch {
      throw refuse("could not be fetched: only public addresses that answer within 15 s are");
    }
    if (answer.ok && answer.body !== null) return answer.body;
    await answer.body?.cancel();
    const location = [301, 302, 303, 307, 308].includes(answer.status) ? answer.headers.get("location") : null;
    const target = location === null ? null : URL.parse(location, next);
    if (target === null) throw refuse(`could not be fetched: it answered ${answer.status}`);
    next = target.href;
  }
  throw refuse(`could not be fetched: it redirects more than ${REDIRECTS_MAX} times`);
}
