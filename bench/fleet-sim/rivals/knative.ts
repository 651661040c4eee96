/**
 * Rival c: the algorithm that Knative publishes for its Pod Autoscaler (docs/serving/autoscaling/kpa-specific and docs/scaling/SYSTEM.md of its project), at
 * its default settings. Concurrency is what waits or runs, averaged over a stable and a panic window of one-second buckets; every two seconds the wanted number
 * is that average by the target of one instance (70 % of what it may run at once, here one). When the panic window wants twice what is ready, the larger
 * of both windows counts, and nothing goes down until a stable window has passed without that.
 *
 * Taken in its favour: metrics are exact and at once, not scraped; a first request at zero wakes it at once.
 */
import type { Decision, DeploymentView, InstanceView, Policy, PolicyMaker } from "./policy.ts";

const TICK_MS = 2_000;
const BUCKET_MS = 1_000;
const STABLE_WINDOW_MS = 60_000;
const PANIC_WINDOW_MS = 6_000;
const PANIC_THRESHOLD = 2;
const TARGET_CONCURRENCY = 0.7;
const MAX_SCALE_UP_RATE = 1_000;
const MAX_SCALE_DOWN_RATE = 2;
/** The last one stays so long after all else wants it gone. */
const SCALE_TO_ZERO_GRACE_MS = 30_000;

export const knative: PolicyMaker = {
  name: "Knative",
  make: ({ max_instances }) => new PodAutoscaler(max_instances),
};

class PodAutoscaler implements Policy {
  readonly #max: number;
  readonly #concurrency = new WindowedAverage();
  #panicking_since: number | null = null;
  #panic_instances = 0;
  #zero_since: number | null = null;
  #tick_at = 0;

  constructor(max: number) {
    this.#max = max;
  }

  worked(_came: 0 | 1, running: number, queued: number, now: number): void {
    this.#concurrency.set(running + queued, now);
  }

  decide({ now, queued, instances }: DeploymentView): Decision {
    const isWoken = queued > 0 && instances.length === 0;
    if (now < this.#tick_at && !isWoken) return { place: 0, drain: [], decide_again_at: this.#tick_at };
    this.#tick_at = now + TICK_MS;
    const ready = instances.filter(({ state }) => state === "ready").length;
    const wanted = Math.min(this.#max, Math.max(this.#desired(ready, now), isWoken ? 1 : 0));
    if (wanted === 0 && instances.length === 0) {
      // Nothing is seen of it any more; the next arrival wakes it.
      this.#tick_at = 0;
      this.#zero_since = null;
      return { place: 0, drain: [], decide_again_at: null };
    }
    const kept = this.#keepLast(wanted, now);
    return {
      place: Math.max(0, kept - instances.length),
      drain: leastUsed(instances, Math.max(0, instances.length - kept)),
      decide_again_at: this.#tick_at,
    };
  }

  #desired(ready: number, now: number): number {
    const base = Math.max(1, ready);
    const most = Math.ceil(MAX_SCALE_UP_RATE * base);
    const least = Math.floor(ready / MAX_SCALE_DOWN_RATE);
    const bounded = (wanted: number): number => Math.min(Math.max(wanted, least), most);
    const inPanicWindow = Math.ceil(this.#concurrency.over(PANIC_WINDOW_MS, now) / TARGET_CONCURRENCY);
    const inStableWindow = Math.ceil(this.#concurrency.over(STABLE_WINDOW_MS, now) / TARGET_CONCURRENCY);

    if (inPanicWindow / base >= PANIC_THRESHOLD) this.#panicking_since = now;
    else if (this.#panicking_since !== null && this.#panicking_since + STABLE_WINDOW_MS < now) {
      this.#panicking_since = null;
      this.#panic_instances = 0;
    }
    if (this.#panicking_since === null) return bounded(inStableWindow);
    this.#panic_instances = Math.max(this.#panic_instances, bounded(inStableWindow), bounded(inPanicWindow));
    return this.#panic_instances;
  }

  /** One in place of none, until none has been wanted for the grace. */
  #keepLast(wanted: number, now: number): number {
    if (wanted > 0) {
      this.#zero_since = null;
      return wanted;
    }
    this.#zero_since ??= now;
    return now - this.#zero_since < SCALE_TO_ZERO_GRACE_MS ? 1 : 0;
  }
}

/** Those that do nothing first, starting ones before ready ones, then those idle for longest. */
function leastUsed(instances: readonly InstanceView[], count: number): string[] {
  if (count === 0) return [];
  const rank = ({ state, leased }: InstanceView): number => (leased > 0 ? 2 : state === "ready" ? 1 : 0);
  const sorted = [...instances].sort((a, b) => rank(a) - rank(b) || a.last_used_at - b.last_used_at);
  return sorted.slice(0, count).map(({ instance_id }) => instance_id);
}

/** The average of a step function over windows that end now, of one-second buckets; the one that is not full counts by its part. */
class WindowedAverage {
  readonly #buckets = new Float64Array(STABLE_WINDOW_MS / BUCKET_MS + 1);
  #value = 0;
  #at = 0;

  set(value: number, now: number): void {
    this.#advance(now);
    this.#value = value;
  }

  over(window_ms: number, now: number): number {
    this.#advance(now);
    const last = Math.floor(now / BUCKET_MS);
    const count = window_ms / BUCKET_MS;
    let sum = 0;
    // A bucket that begins now is empty still.
    for (let i = now > last * BUCKET_MS ? 0 : 1; i < count; i++) sum += this.#buckets[this.#slot(last - i)] ?? 0;
    return sum / ((count - 1) * BUCKET_MS + (now - last * BUCKET_MS));
  }

  #slot(bucket: number): number {
    return (bucket + this.#buckets.length) % this.#buckets.length;
  }

  #advance(now: number): void {
    const oldest = (Math.floor(now / BUCKET_MS) - this.#buckets.length + 1) * BUCKET_MS;
    let at = this.#at;
    if (at < oldest) {
      this.#buckets.fill(0);
      at = oldest;
    }
    while (at < now) {
      const bucket = Math.floor(at / BUCKET_MS);
      const end = Math.min(now, (bucket + 1) * BUCKET_MS);
      const slot = this.#slot(bucket);
      const before = at === bucket * BUCKET_MS ? 0 : (this.#buckets[slot] ?? 0);
      this.#buckets[slot] = before + this.#value * (end - at);
      at = end;
    }
    this.#at = now;
  }
}
