/** A host with an origin: its disk and its address, which stay while processes come and go. */
import type { InstanceBoot } from "../../schema/origin-protocol.ts";
import type { Network } from "./network.ts";
import { type EdgeCalls, type OriginEvents, OriginProcess } from "./origin.ts";
import { OriginJournal } from "./origin-journal.ts";
import { runAs } from "./timeline.ts";

/** A process that died is back after this. */
const DOWN_MS = [200, 30_000] as const;

export class OriginHost {
  readonly index: number;
  readonly network: Network;
  readonly edge: EdgeCalls;
  readonly events: OriginEvents;
  readonly url: string;
  readonly setupFails: (boot: InstanceBoot) => boolean;
  readonly capacity: number;
  readonly sku: string;
  origin_id: string | null = null;
  journal: OriginJournal;
  process: OriginProcess | null = null;
  /** the network to it is broken until then */
  partedUntil = 0;
  starts = 0;

  constructor(
    index: number,
    network: Network,
    edge: EdgeCalls,
    events: OriginEvents,
    options: { sku: string; capacity: number; setupFails: (boot: InstanceBoot) => boolean },
  ) {
    this.index = index;
    this.network = network;
    this.edge = edge;
    this.events = events;
    this.url = `http://origin-${index}.test`;
    this.sku = options.sku;
    this.capacity = options.capacity;
    this.setupFails = options.setupFails;
    this.journal = this.#emptyJournal();
  }

  /** Of messages to and from it. */
  get lost(): number {
    return this.network.timeline.now < this.partedUntil ? 1 : this.network.rates.lost;
  }

  start(): void {
    this.starts += 1;
    const started = new OriginProcess(this, `origin-${this.index}#${this.starts}`);
    this.process = started;
    runAs(started, () => started.begin());
  }

  crash(losesDisk: boolean): void {
    const { timeline, random } = this.network;
    if (this.process === null) return;
    timeline.trace(`${this.process.name} is killed${losesDisk ? ", with its disk" : ""}`);
    this.process.isAlive = false;
    this.process = null;
    if (losesDisk) this.journal = this.#emptyJournal();
    timeline.after(random.between(...DOWN_MS), null, () => this.start());
  }

  #emptyJournal(): OriginJournal {
    return new OriginJournal(() => this.network.timeline.now);
  }
}
