/** Each check of a chaos run finds what it is for: everything here is right but for one planted fault. */
import { expect, test } from "vitest";
import type { WebhookCall } from "../lib/receiver.ts";
import {
  type Books,
  checkEnds,
  checkListed,
  checkMoney,
  checkStreams,
  checkWebhooks,
  costOf,
  type LedgerRow,
  type Life,
} from "./checks.ts";
import { planned } from "./plan.ts";

const SECOND_MICROS = 10_000;
/** Of `KINDS`: the keys of one prediction each that is sync, streamed and may run again, canceled, a training. */
const [SYNC, CANCELED, TRAINING] = [0, 8, 9];
const STREAMED = [5, 6, 7, 15, 16, 17].find((key) => planned(key, 1).idempotent) ?? 0;

function life(key: number, changed: Partial<Life["document"]> = {}): Life {
  const plan = planned(key, 1);
  const id = `id-${key}`;
  const document = {
    id,
    status: plan.kind === "canceled" ? "canceled" : "succeeded",
    output: plan.kind === "training" ? { version: "chaos/garden:v1" } : plan.expected,
    error: null,
    logs: "",
    metrics: { predict_time: 0.5 },
    created_at: "2026-01-01T00:00:00.000Z",
    started_at: "2026-01-01T00:00:01.000Z",
    completed_at: "2026-01-01T00:00:02.000Z",
    cost: 5_000,
    ...changed,
  } as unknown as Life["document"];
  const told = [call("start", { ...document, status: "processing" }, "w1"), call("completed", document, "w2")];
  const read = ((plan.kind === "streamed" ? document.output : []) as string[]).map(
    (text, n) => `event: output\nid: ${n}\ndata: ${text.trimEnd()}\ndata: \n`,
  );
  const stream = plan.kind === "streamed" ? { read, whole: [...read] } : null;
  return { plan, id, document, told, stream, published: plan.kind === "training" ? ["v1"] : null };
}

function call(event: string, body: object, id: string, taken = true): WebhookCall {
  return { path: "", id, headers: { "cogway-event": event }, text: "", body, at: 0, taken } as unknown as WebhookCall;
}

function row(of: Life, changed: Partial<LedgerRow> = {}): LedgerRow {
  const amount_micros = costOf(of.document, SECOND_MICROS);
  const accounts = { debit: "customer", credit: "revenue:active" };
  return { subject: `prediction:${of.id}`, kind: "second", ...accounts, amount_micros, ...changed };
}

const FREE = { subject: "credit:welcome", kind: "free", debit: "promotion", credit: "customer", amount_micros: 1e6 };
const lives = [SYNC, STREAMED, CANCELED, TRAINING].map((key) => life(key));
const failed = life(SYNC, { status: "failed", error_code: "origin.lost", error: "lost", output: null, cost: 0 });

function books(changed: Partial<Books> = {}): Books {
  const rows = [FREE, ...lives.map((each) => row(each))];
  return { rows, spent_micros: 20_000, used_micros: 20_000, reserved_micros: 0, ...changed };
}

const listed = lives.map(({ id, document }) => `${id} ${document.status}`);
const trusting = (): void => undefined;

test("what is right has no faults", () => {
  expect(checkEnds(lives)).toEqual([]);
  expect(checkListed(lives, listed)).toEqual([]);
  expect(checkMoney(lives, books(), SECOND_MICROS)).toEqual([]);
  expect(checkWebhooks(lives, trusting)).toEqual([]);
  expect(checkStreams(lives)).toEqual([]);
  // What cannot run again may be lost with its origin, and costs nothing then.
  expect(checkEnds([failed])).toEqual([]);
  const nothing = { rows: [FREE], spent_micros: 0, used_micros: 0, reserved_micros: 0 };
  expect(checkMoney([failed], nothing, SECOND_MICROS)).toEqual([]);
  const again = {
    ...life(SYNC),
    told: [call("completed", life(SYNC).document, "w", false), ...life(SYNC).told.slice(1)],
  };
  expect(checkWebhooks([{ ...again, told: again.told.map((each) => ({ ...each, id: "w" })) }], trusting)).toEqual([]);
});

const rows = books().rows;
const [first = row(failed)] = rows.slice(1);
const document = life(SYNC).document;
const whole = life(STREAMED).stream?.whole ?? [];

test.each<[string, () => string[]]>([
  ["has not ended", () => checkEnds([life(SYNC, { status: "processing" })])],
  ["its output is", () => checkEnds([life(SYNC, { output: "other" })])],
  ["failed: origin.lost", () => checkEnds([life(STREAMED, { status: "failed", error_code: "origin.lost" })])],
  ["failed: internal", () => checkEnds([life(SYNC, { status: "failed", error_code: "internal" })])],
  ["nobody asked for it", () => checkEnds([life(SYNC, { status: "canceled" })])],
  ["its destination has v1,v2", () => checkEnds([{ ...life(TRAINING), published: ["v1", "v2"] }])],
  ["made versions v1, its destination has", () => checkEnds([{ ...life(TRAINING), published: [] }])],
  ["is not in the list", () => checkListed(lives, listed.slice(1))],
  ["the list has other", () => checkListed(lives, [...listed, "other succeeded"])],
  ["the list has a row twice", () => checkListed(lives, [...listed, ...listed.slice(1)])],
  ["is booked twice", () => checkMoney(lives, books({ rows: [...rows, first] }), SECOND_MICROS)],
  ["booked 10000", () => checkMoney(lives, books({ rows: [...rows, { ...first, kind: "other" }] }), SECOND_MICROS)],
  ["booked 0", () => checkMoney(lives, books({ rows: rows.slice(2) }), SECOND_MICROS)],
  ["by its document 0", () => checkMoney([failed, ...lives.slice(1)], books(), SECOND_MICROS)],
  ["by its time 5000", () => checkMoney([life(SYNC, { cost: 4_999 })], books(), SECOND_MICROS)],
  ["pays for 9000 ms", () => checkMoney([life(SYNC, { metrics: { predict_time: 9 } })], books(), SECOND_MICROS)],
  [
    "instance:a:0: booked 5000",
    () => checkMoney(lives, books({ rows: [...rows, { ...first, subject: "instance:a:0" }] }), SECOND_MICROS),
  ],
  ["from bank", () => checkMoney(lives, books({ rows: [{ ...first, debit: "bank" }] }), SECOND_MICROS)],
  ["has spent 25000", () => checkMoney(lives, books({ spent_micros: 25_000 }), SECOND_MICROS)],
  ["usage is 25000", () => checkMoney(lives, books({ used_micros: 25_000 }), SECOND_MICROS)],
  ["still held", () => checkMoney(lives, books({ reserved_micros: 1 }), SECOND_MICROS)],
  [
    "and never taken",
    () => checkWebhooks([{ ...life(SYNC), told: [call("completed", document, "w", false)] }], trusting),
  ],
  ["told 0 times", () => checkWebhooks([{ ...life(SYNC), told: [] }], trusting)],
  [
    "several webhook ids",
    () => checkWebhooks([{ ...life(SYNC), told: [...life(SYNC).told, call("completed", document, "w3")] }], trusting),
  ],
  [
    "stored",
    () => checkWebhooks([{ ...life(SYNC), told: [call("completed", { ...document, logs: "other" }, "w")] }], trusting),
  ],
  ["1 events after its end", () => checkWebhooks([{ ...life(SYNC), told: life(SYNC).told.toReversed() }], trusting)],
  [
    "No matching signature",
    () =>
      checkWebhooks([life(SYNC)], () => {
        throw new Error("No matching signature");
      }),
  ],
  ["they part at", () => checkStreams([{ ...life(STREAMED), stream: { read: whole.slice(0, -1), whole } }])],
  ["came twice", () => checkStreams([{ ...life(STREAMED), stream: { read: [...whole, whole[0] ?? ""], whole } }])],
  [
    "is not its output",
    () => checkStreams([{ ...life(STREAMED, { output: ["other"] }), stream: { read: whole, whole } }]),
  ],
])("%s: found", (what, find) => {
  expect(find().join("\n")).toContain(what);
});
