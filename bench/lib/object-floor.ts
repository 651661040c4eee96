/**
 * The floor of the fan-out: one Durable Object in a bare workerd that stores each event in SQLite and sends it to every reader, with nothing of Cogway
 * around it. workerd has the settings that the launcher gives it.
 */
import { Agent } from "node:http";
import { startBareWorker } from "./bare-worker.ts";
import { send } from "./load.ts";

const WORKER = `
import { DurableObject } from "cloudflare:workers";
const encoder = new TextEncoder();
export class Fan extends DurableObject {
  readers = new Set();
  constructor(state, env) {
    super(state, env);
    state.storage.sql.exec("CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, data TEXT)");
  }
  async fetch(request) {
    if (request.method === "POST") {
      const data = await request.text();
      this.ctx.storage.sql.exec("INSERT INTO events (data) VALUES (?)", data);
      const bytes = encoder.encode(data === "" ? "event: done\\ndata: {}\\n\\n" : "event: output\\ndata: " + data + "\\n\\n");
      for (const reader of this.readers) {
        reader.enqueue(bytes);
        if (data === "") reader.close();
      }
      if (data === "") this.readers.clear();
      return new Response(null, { status: 204 });
    }
    const { readers } = this;
    const body = new ReadableStream({ start(controller) { readers.add(controller); } });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }
}
export default { fetch: (request, env) => env.FAN.get(env.FAN.idFromName("one")).fetch(request) };
`;

export interface ObjectFloor {
  /** where readers connect */
  url: URL;
  /** Sends `count` events, each its own time, `delayMs` apart, after \`startDelayMs\`; then the end. */
  emit(count: number, delayMs: number, startDelayMs: number): Promise<void>;
  stop(): Promise<void>;
}

export async function startObjectFloor(): Promise<ObjectFloor> {
  const worker = await startBareWorker(WORKER, { FAN: "Fan" });
  const url = new URL(worker.url);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  return {
    url,
    async emit(count, delayMs, startDelayMs) {
      const start = performance.now() + startDelayMs;
      for (let i = 0; i <= count; i++) {
        const wait = start + i * delayMs - performance.now();
        if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
        const body = i === count ? "" : String(performance.timeOrigin + performance.now());
        await send(agent, url, { method: "POST", body });
      }
    },
    async stop() {
      agent.destroy();
      await worker.stop();
    },
  };
}
