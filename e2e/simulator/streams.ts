/** The stream of an ended prediction, read whole and from its middle: its outputs are those of the document, each once, and `done` is the last, once. */
import type { PredictionDocument } from "../../schema/prediction-document.ts";

interface Streamed {
  event: string;
  id: string;
  data: string;
}

type Says = (rule: string, detail: string) => void;

export async function checkStream(
  object: { fetch(request: Request): Promise<Response> },
  { id, output, state }: PredictionDocument,
  says: Says,
): Promise<void> {
  const read = async (last: string | null): Promise<Streamed[]> => {
    const headers = last === null ? {} : { "last-event-id": last };
    const answer = await object.fetch(new Request(`https://prediction/stream/${id}`, { headers }));
    return parse(await answer.text());
  };
  const events = await read(null);
  const outputs = events.filter(({ event }) => event === "output").map(({ data }) => data);
  if (JSON.stringify(outputs) !== JSON.stringify(output ?? [])) {
    says("the stream is the output", `${id}: ${JSON.stringify(outputs)}, and ${JSON.stringify(output)}`);
  }
  if (new Set(events.map((each) => each.id)).size !== events.length) says("ids of events are unique", id);
  const ends = events.map(({ event }) => event).filter((event) => event === "done" || event === "error");
  const expected = state === "failed" ? "error,done" : "done";
  if (ends.join() !== expected || events.at(-1)?.event !== "done") says("a stream ends with done", `${id}: ${ends}`);
  const middle = Math.floor(events.length / 2);
  const rest = await read(events[middle]?.id ?? null);
  if (JSON.stringify(rest) !== JSON.stringify(events.slice(middle + 1))) {
    says(
      "a stream goes on where its reader left",
      `${id}: ${JSON.stringify(rest)} behind event ${middle} of ${events.length}`,
    );
  }
}

/** The events of a stream, without its comments. */
function parse(text: string): Streamed[] {
  return text.split("\n\n").flatMap((block) => {
    const field = (name: string): string[] =>
      block.split("\n").flatMap((line) => (line.startsWith(`${name}: `) ? [line.slice(name.length + 2)] : []));
    const [event] = field("event");
    return event === undefined ? [] : [{ event, id: field("id")[0] ?? "", data: field("data").join("\n") }];
  });
}
