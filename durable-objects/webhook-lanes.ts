/**
 * Who calls a receiver when. Each endpoint (URL without its query) has a queue of its own, and few calls at once: one until it has answered, more while
 * it answers, one again when it stopped. So endpoints that hang take little of what all share, and never the place of another endpoint's first call.
 */

/** Calls in flight of one endpoint, of one host, and of an object. */
const ENDPOINT_CALLS_MAX = 8;
const HOST_CALLS_MAX = 64;
const OBJECT_CALLS_MAX = 256;
/** Endpoints that did not answer last time get at most this part of a host's and of the object's calls. */
const SILENT_PART = 0.5;
/** Endpoints that are remembered as silent; the oldest is forgotten. */
const SILENT_ENDPOINTS_MAX = 1_000;

interface Lane {
  endpoint: string;
  host: string;
  /** told whether the place is one of a silent endpoint */
  waiting: ((isSilent: boolean) => void)[];
  calls: number;
  callsMax: number;
}

interface Load {
  calls: number;
  silent: number;
}

export class WebhookLanes {
  readonly #lanes = new Map<string, Lane>();
  readonly #hosts = new Map<string, Load>();
  readonly #all: Load = { calls: 0, silent: 0 };
  readonly #silent = new Set<string>();

  /** Runs `call` when its endpoint has a place. `call` tells whether it was answered. */
  async run(url: string, call: () => Promise<boolean>): Promise<void> {
    const lane = this.#lane(url);
    const isSilent = await new Promise<boolean>((resolve) => {
      lane.waiting.push(resolve);
      this.#fill();
    });
    let isAnswered = false;
    try {
      isAnswered = await call();
    } finally {
      this.#leave(lane, isSilent, isAnswered);
    }
  }

  #lane(url: string): Lane {
    const { origin, pathname } = new URL(url);
    const endpoint = origin + pathname;
    const known = this.#lanes.get(endpoint);
    if (known !== undefined) return known;
    const lane: Lane = { endpoint, host: origin, waiting: [], calls: 0, callsMax: 1 };
    this.#lanes.set(endpoint, lane);
    return lane;
  }

  #fill(): void {
    for (const lane of this.#lanes.values()) {
      while (lane.waiting.length > 0 && this.#hasPlace(lane)) {
        const isSilent = this.#silent.has(lane.endpoint);
        this.#count(lane, 1, isSilent);
        lane.waiting.shift()?.(isSilent);
      }
    }
  }

  #hasPlace(lane: Lane): boolean {
    if (lane.calls >= lane.callsMax) return false;
    const host = this.#hosts.get(lane.host) ?? { calls: 0, silent: 0 };
    const isSilent = this.#silent.has(lane.endpoint);
    const fits = (load: Load, max: number): boolean =>
      load.calls < max && (!isSilent || load.silent < max * SILENT_PART);
    return fits(host, HOST_CALLS_MAX) && fits(this.#all, OBJECT_CALLS_MAX);
  }

  #leave(lane: Lane, wasSilent: boolean, isAnswered: boolean): void {
    this.#count(lane, -1, wasSilent);
    lane.callsMax = isAnswered ? Math.min(lane.callsMax + 1, ENDPOINT_CALLS_MAX) : 1;
    this.#silent.delete(lane.endpoint);
    if (!isAnswered) this.#silent.add(lane.endpoint);
    if (this.#silent.size > SILENT_ENDPOINTS_MAX) this.#silent.delete(this.#silent.values().next().value ?? "");
    if (lane.calls === 0 && lane.waiting.length === 0) this.#lanes.delete(lane.endpoint);
    this.#fill();
  }

  #count(lane: Lane, change: 1 | -1, isSilent: boolean): void {
    lane.calls += change;
    const host = this.#hosts.get(lane.host) ?? { calls: 0, silent: 0 };
    for (const load of [host, this.#all]) {
      load.calls += change;
      if (isSilent) load.silent += change;
    }
    if (host.calls === 0) this.#hosts.delete(lane.host);
    else this.#hosts.set(lane.host, host);
  }
}
