/**
 * Bytes from an address that a user gave, for the edge itself. The request leaves through the egress Worker, which reaches public addresses only, whatever a
 * name resolves to and wherever a redirect points; here the form of the address, the time and the answer's status are judged.
 */
import { AppError } from "../../schema/problems.ts";

/** From the request to the answer's head, redirects included. */
const FETCH_TIMEOUT_MS = 15_000;

/** The body of `url`: http(s) or a data URI. Throws a problem that names `field`. */
export async function fetchPublic(url: string, field: string): Promise<ReadableStream<Uint8Array>> {
  const refuse = (description: string): AppError =>
    new AppError("input.invalid", `- ${field}: ${description}\n`, {
      invalid_fields: [{ type: "format", field, description }],
    });
  const parsed = URL.canParse(url) ? new URL(url) : null;
  const isFetchable = parsed !== null && ["http:", "https:", "data:"].includes(parsed.protocol);
  if (!isFetchable || parsed.username !== "" || parsed.password !== "") {
    throw refuse("an http(s) URL without credentials, or a data URI, is needed");
  }
  let answer: Response;
  try {
    answer = await fetch(parsed, { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) });
  } catch {
    throw refuse("could not be fetched: only public addresses that answer within 15 s are");
  }
  if (!answer.ok || answer.body === null) {
    await answer.body?.cancel();
    throw refuse(`could not be fetched: it answered ${answer.status}`);
  }
  return answer.body;
}
