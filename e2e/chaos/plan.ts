/** What the n-th prediction of a run is: from its number and the run's seed alone, so that two runs of one seed ask for the same. */

export type Kind = "sync" | "async" | "streamed" | "canceled" | "training";

export interface Planned {
  key: number;
  kind: Kind;
  model: string;
  input: Record<string, unknown>;
  /** what it gives when nothing happens to its origin; null where that is not text */
  expected: unknown;
  /** its version may be run again, so nothing that happens may make it fail */
  idempotent: boolean;
  /** seconds of `Prefer: wait`; 0: none */
  wait_s: number;
  /** after how many milliseconds it is canceled; null: it is not */
  cancel_after_ms: number | null;
  /** where its reader drops the connection by itself */
  cuts: number[];
  events: ("start" | "output" | "logs" | "completed")[];
}

const KINDS: readonly Kind[] = [
  ...(["sync", "sync", "sync", "async", "async", "streamed", "streamed", "streamed", "canceled"] as const),
  "training",
];
const TOKENS = 40;
const TOKEN_PAUSE_MS = 25;
const CANCEL_WITHIN_MS = 2_500;
const CUTS_MAX = 4;
const KEYS_OF_A_SEED = 100_003;

/** A repeatable draw from 0 to 1 (mulberry32). */
export function draw(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function planned(key: number, seed: number): Planned {
  const random = draw(seed * KEYS_OF_A_SEED + key);
  const kind = KINDS[key % KINDS.length] ?? "sync";
  const tokens = Array.from({ length: TOKENS }, (_, n) => `token ${n}\n`);
  const base = {
    key,
    kind,
    idempotent: false,
    wait_s: 0,
    cancel_after_ms: null,
    cuts: [],
    events: ["completed" as const],
  };
  switch (kind) {
    case "sync":
      return { ...base, model: "noop", input: { text: `text ${key}` }, expected: `text ${key}`, wait_s: 20 };
    case "async":
      return {
        ...base,
        model: "tokens",
        input: { count: TOKENS, delay_ms: TOKEN_PAUSE_MS },
        expected: tokens,
        events: ["start", "output", "completed"],
      };
    case "streamed": {
      const idempotent = random() < 0.7;
      return {
        ...base,
        idempotent,
        model: idempotent ? "idempotent-tokens" : "tokens",
        input: { count: TOKENS, delay_ms: TOKEN_PAUSE_MS },
        expected: tokens,
        cuts: Array.from({ length: Math.floor(random() * CUTS_MAX) }, () => 1 + Math.floor(random() * TOKENS)),
      };
    }
    case "canceled":
      return {
        ...base,
        model: "slow",
        input: { seconds: 60 },
        expected: null,
        cancel_after_ms: random() * CANCEL_WITHIN_MS,
      };
    case "training":
      return { ...base, model: "trainer", input: { steps: 2, pause_s: 0.2 }, expected: null };
  }
}
