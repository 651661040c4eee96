/** A receiver of webhooks inside a test: takes the place of the network, answers as it is told, and keeps what came. */
import { vi } from "vitest";
import type { World } from "./prediction-world.ts";

export interface ReceivedCall {
  url: string;
  id: string;
  event: string;
  headers: Headers;
  text: string;
  body: Record<string, unknown>;
  init: RequestInit;
  at: number;
}

export class Receiver {
  readonly calls: ReceivedCall[] = [];
  answer: (call: ReceivedCall) => Response | Promise<Response> = () => new Response(null, { status: 204 });
  /** calls that are not answered yet, and the most there were */
  open = 0;
  mostOpen = 0;

  constructor() {
    vi.stubGlobal("fetch", async (url: string, init: RequestInit) => {
      const headers = new Headers(init.headers);
      const text = String(init.body);
      const call: ReceivedCall = {
        url,
        id: headers.get("webhook-id") ?? "",
        event: headers.get("cogway-event") ?? "",
        headers,
        text,
        body: JSON.parse(text) as Record<string, unknown>,
        init,
        at: Date.now(),
      };
      this.calls.push(call);
      this.open += 1;
      this.mostOpen = Math.max(this.mostOpen, this.open);
      try {
        return await this.answer(call);
      } finally {
        this.open -= 1;
      }
    });
  }

  /** Kinds of the events that came, in order. */
  get events(): string[] {
    return this.calls.map(({ event }) => event);
  }
}

/** Lets the clock run to the object's next deadline and rings its alarm; false when it has none within `withinMs`. */
export async function ringNext(world: World, withinMs = Number.POSITIVE_INFINITY): Promise<boolean> {
  // The platform forgets an alarm that rang; one that a test rings stays.
  const { sql } = world.state.storage;
  const { wakeAt } = sql.exec<{ wakeAt: number | null }>("SELECT min(due_at) AS wakeAt FROM deadlines").one();
  if (wakeAt === null || wakeAt - Date.now() > withinMs) return false;
  vi.setSystemTime(Math.max(wakeAt, Date.now()));
  await world.object.alarm();
  await world.idle();
  return true;
}
