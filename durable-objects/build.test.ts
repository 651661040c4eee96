/** One build over real SQLite, D1 and R2, between a fleet and origins that are only pretended: what is lost on the way is done again. */
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { BuildDocument } from "../schema/build-document.ts";
import { BUILD_TRIES_MAX, BUILD_WAIT_MAX_MS } from "../schema/builds.ts";
import { newId } from "../schema/ids.ts";
import { type BuildStart, LEASE_TTL_MS } from "../schema/origin-protocol.ts";
import type { BuildEvent } from "../schema/packages.ts";
import { BuildObject } from "./build.ts";
import { buildLogKey } from "./build-log.ts";
import { LOG_BYTES_MAX } from "./build-store.ts";
import { forgetOrigins } from "./origin-directory.ts";
import { envWith, freshName, passTime, stopClock, withObject } from "./testing/harness.ts";
import { largestRow, ROW_BYTES_MAX } from "./testing/rows.ts";

beforeEach(() => {
  stopClock();
  forgetOrigins();
});
afterEach(() => {
  vi.useRealTimers();
});

const ORIGINS = ["o1", "o2"];

interface World {
  id: string;
  build: BuildObject;
  state: DurableObjectState;
  /** drops the object's memory */
  restart: () => BuildObject;
  starts: { origin: string; start: BuildStart }[];
  canceled: string[];
  ended: string[];
  /** what the fleet answers instead of an origin */
  refused: string | null;
  /** origins that cannot be reached, and those that know nothing of it */
  away: Set<string>;
  forgetful: Set<string>;
  create: () => Promise<BuildDocument>;
  /** rings the alarms that are due */
  ring: () => Promise<BuildDocument>;
}

function withBuild(test: (world: World) => Promise<void>): Promise<void> {
  return withObject("BUILDS", freshName(), async (state) => {
    const id = newId();
    const answer = async (request: Request): Promise<Response> => {
      const { hostname, pathname } = new URL(request.url);
      const origin = hostname.split(".")[0] ?? "";
      if (world.away.has(origin)) throw new TypeError("connection refused");
      if (pathname.endsWith("/cancel")) world.canceled.push(origin);
      if (request.method === "PUT") world.starts.push({ origin, start: await request.json<BuildStart>() });
      if (request.method === "GET" && world.forgetful.has(origin)) {
        return Response.json({ code: "build.unknown", detail: "?" }, { status: 404 });
      }
      return Response.json({ build_id: id, state: "running", last_event_i: -1 }, { status: 202 });
    };
    const around = envWith({
      origin: answer,
      fleet: {
        placeBuild: async (_id, _isTrusted, except) => {
          const origin_id = ORIGINS.find((origin) => !except.includes(origin));
          if (world.refused !== null) return { refused: world.refused };
          return origin_id === undefined ? { refused: "All are away." } : { origin_id };
        },
        buildEnded: async (buildId) => {
          world.ended.push(buildId);
        },
        keys: async () => [],
        origins: async () =>
          ORIGINS.map((origin_id) => ({
            origin_id,
            url: `http://${origin_id}.example`,
            key: { key_id: "k", secret: Buffer.from("secret").toString("base64") },
            alive: true,
          })),
      },
    });
    const make = () => new BuildObject(state as never, around);
    const world: World = {
      id,
      state,
      build: make(),
      restart: () => {
        world.build = make();
        return world.build;
      },
      ...{ starts: [], canceled: [], ended: [], refused: null },
      ...{ away: new Set<string>(), forgetful: new Set<string>() },
      create: () =>
        world.build.create({
          id,
          account_id: "alice",
          owner: "alice",
          name: "model",
          manifest: `sha256:${"a".repeat(64)}`,
          is_trusted: false,
          is_forced: false,
          created_at: Date.now(),
        }),
      ring: async () => {
        await world.build.alarm();
        const document = await world.build.get();
        if (document === null) throw new Error("there is no build");
        return document;
      },
    };
    await test(world);
  });
}

const log = (i: number, data: string): BuildEvent => ({ type: "log", i, t_ms: i, data });
const failed = (i: number): BuildEvent => ({ type: "finished", i, t_ms: i, status: "failed", error: "No.", code: "x" });
const rowOf = (id: string) => env.DB.prepare("SELECT status, error FROM builds WHERE id = ?").bind(id).first();

describe("a build", () => {
  it("guarantees that asking for one that is none stores nothing", () =>
    withBuild(async ({ build, state }) => {
      expect([await build.get(), await build.cancel(), await build.beginPublish("o1")]).toEqual([null, null, null]);
      expect(await build.applyEvents([log(0, "x")], "o1", null)).toEqual({ through_i: 0, outcome: "unknown" });
      expect((await build.fetch(new Request("https://build/events"))).status).toBe(404);
      expect(state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name = 'build'").toArray()).toEqual([]);
    }));

  it("guarantees a row of the catalog at once, and a start at an origin, whatever is created twice or evicted", () =>
    withBuild(async (world) => {
      await world.create();
      expect(await world.create()).toMatchObject({ status: "queued" });
      expect(await rowOf(world.id)).toMatchObject({ status: "queued" });
      world.restart();
      expect(await world.ring()).toMatchObject({ status: "building" });
      expect(world.starts.map(({ origin }) => origin)).toEqual(["o1"]);
      world.restart();
      await world.ring();
      expect(await rowOf(world.id)).toMatchObject({ status: "building" });
      expect(world.starts).toHaveLength(1);
    }));

  it("guarantees that it waits with the fleet's reason, asks again, and ends when nobody takes it for long", () =>
    withBuild(async (world) => {
      world.refused = "One must be started with COGWAY_DRIVER=docker.";
      await world.create();
      expect(await world.ring()).toMatchObject({ status: "queued", waiting_for: world.refused });
      passTime(60_000);
      world.refused = null;
      expect(await world.ring()).toMatchObject({ status: "building", waiting_for: null });
      await withBuild(async (other) => {
        other.refused = "None.";
        await other.create();
        await other.ring();
        passTime(BUILD_WAIT_MAX_MS);
        expect(await other.ring()).toMatchObject({ status: "failed", code: "build.refused" });
      });
    }));

  it("guarantees that an origin which cannot take it is passed over", () =>
    withBuild(async (world) => {
      world.away.add("o1");
      await world.create();
      expect(await world.ring()).toMatchObject({ status: "queued", waiting_for: expect.stringContaining("o1") });
      passTime(10_000);
      expect(await world.ring()).toMatchObject({ status: "building" });
      expect(world.starts.map(({ origin }) => origin)).toEqual(["o2"]);
    }));

  it("guarantees that a silent origin is asked, and that one which lost it makes way for another, so often", () =>
    withBuild(async (world) => {
      await world.create();
      await world.ring();
      await world.build.applyEvents([log(0, "first\n")], "o1", null);
      passTime(LEASE_TTL_MS + 1);
      expect(await world.ring()).toMatchObject({ status: "building" });
      expect(world.starts).toHaveLength(1);

      for (const origin of ORIGINS) world.forgetful.add(origin);
      passTime(LEASE_TTL_MS + 1);
      await world.ring();
      passTime(LEASE_TTL_MS + 1);
      expect(await world.ring()).toMatchObject({ status: "building" });
      expect(world.starts.map(({ origin }) => origin)).toEqual(["o1", "o2"]);
      expect(await world.build.applyEvents([log(0, "late\n")], "o1", null)).toMatchObject({ outcome: "fenced" });
      expect(await world.build.applyEvents([log(0, "again\n")], "o2", null)).toMatchObject({ outcome: "stored" });
      const text = await (await world.build.fetch(new Request("https://build/logs"))).text();
      expect(text).toMatch(/^first\n.*lost.*\nagain\n$/);

      for (let k = 2; k <= BUILD_TRIES_MAX; k++) {
        passTime(LEASE_TTL_MS + 1);
        await world.ring();
        passTime(LEASE_TTL_MS + 1);
        await world.ring();
      }
      expect(await world.build.get()).toMatchObject({ status: "failed", code: "build.origin_lost" });
      expect(world.starts).toHaveLength(BUILD_TRIES_MAX);
      await world.ring();
      expect(world.ended).toContain(world.id);
    }));

  it("guarantees that an origin which cannot be reached gets a minute, and what it says later is refused", () =>
    withBuild(async (world) => {
      await world.create();
      await world.ring();
      world.away.add("o1");
      passTime(LEASE_TTL_MS + 1);
      expect(await world.ring()).toMatchObject({ status: "building" });
      passTime(60_000);
      await world.ring();
      passTime(LEASE_TTL_MS);
      await world.ring();
      expect(world.starts.map(({ origin }) => origin)).toEqual(["o1", "o2"]);
      expect(await world.build.applyEvents([log(0, "late")], "o1", null)).toMatchObject({ outcome: "fenced" });
      expect(await world.build.beginPublish("o1")).toBeNull();
    }));

  it("guarantees that a cancel ends it, is told until it was heard, and that one in the making of its version ends well", () =>
    withBuild(async (world) => {
      await world.create();
      await world.ring();
      world.away.add("o1");
      expect(await world.build.cancel()).toMatchObject({ status: "canceled" });
      await world.ring();
      expect(world.canceled).toEqual([]);
      world.away.clear();
      world.restart();
      passTime(60_000);
      await world.ring();
      expect(world.canceled).toEqual(["o1"]);
      expect(await rowOf(world.id)).toMatchObject({ status: "canceled" });

      await withBuild(async (other) => {
        await other.create();
        await other.ring();
        expect(await other.build.beginPublish("o1")).toMatchObject({ id: other.id, account_id: "alice" });
        expect(await other.build.cancel()).toMatchObject({ status: "building" });
        const end: BuildEvent = { type: "finished", i: 0, t_ms: 0, status: "succeeded" };
        const made = { version_id: "b".repeat(64), is_new: true, schema_diff: null, test_prediction_id: null };
        await other.build.applyEvents([end], "o1", { kind: "published", ...made });
        expect(await other.build.cancel()).toMatchObject({ status: "succeeded", version_id: "b".repeat(64) });
      });
    }));
});

describe("the log of a build", () => {
  it("guarantees that nothing is left of a build 90 days after its end", () =>
    withBuild(async (world) => {
      await world.create();
      await world.ring();
      await world.build.applyEvents([log(0, "x"), failed(1)], "o1", null);
      await world.ring();
      passTime(90 * 86_400_000);
      world.restart();
      await world.build.alarm();
      expect(await world.build.get()).toBeNull();
      expect([await rowOf(world.id), await env.FILES.head(buildLogKey(world.id))]).toEqual([null, null]);
      const tables = world.state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name IN ('build', 'log')");
      expect([tables.toArray(), await world.state.storage.getAlarm()]).toEqual([[], null]);
    }));

  it("guarantees that it moves to R2 at the end and reads the same, from any place", () =>
    withBuild(async (world) => {
      await world.create();
      await world.ring();
      const lines = Array.from({ length: 40 }, (_, i) => log(i, `line ${i} — ü 🙂 ${"x".repeat(3_000)}\n`));
      for (const line of lines) await world.build.applyEvents([line], "o1", null);
      const before = await (await world.build.fetch(new Request("https://build/logs"))).text();
      await world.build.applyEvents([failed(lines.length)], "o1", null);
      await world.ring();
      world.restart();
      expect(await env.FILES.head(buildLogKey(world.id))).not.toBeNull();
      expect(world.state.storage.sql.exec("SELECT start FROM log").toArray()).toEqual([]);
      expect(await (await world.build.fetch(new Request("https://build/logs"))).text()).toBe(before);
      const events = async (last?: string): Promise<string> => {
        const headers = last === undefined ? {} : { "last-event-id": last };
        return (await world.build.fetch(new Request("https://build/events", { headers }))).text();
      };
      expect(textOf(await events())).toBe(before);
      const bytes = new TextEncoder().encode(before);
      const place = bytes.byteLength - 10_000;
      const rest = await events(String(place));
      expect(textOf(rest)).toBe(new TextDecoder().decode(bytes.subarray(place)));
      expect(rest).toContain('"code":"x"');
      expect(textOf(await events("nonsense"))).toBe(before);
    }));

  it("guarantees a bound: the oldest lines go, no row is large, and the rest says so", () =>
    withBuild(async (world) => {
      await world.create();
      await world.ring();
      const data = `${"ü".repeat(65_535)}\n`;
      for (let i = 0; i < 80; i++) await world.build.applyEvents([log(i, data)], "o1", null);
      expect(largestRow(world.state).bytes).toBeLessThan(ROW_BYTES_MAX);
      for (const isEnded of [false, true]) {
        if (isEnded) {
          await world.build.applyEvents([failed(80)], "o1", null);
          await world.ring();
        }
        const text = await (await world.build.fetch(new Request("https://build/logs"))).text();
        expect(text).toMatch(/^\[the first \d+ bytes of this log were not kept\]\n/);
        expect(new TextEncoder().encode(text).byteLength).toBeLessThan(LOG_BYTES_MAX + 200);
      }
      const answer = await world.build.fetch(new Request("https://build/events"));
      expect(textOf(await answer.text()).startsWith("ü")).toBe(true);
    }));
});

/** The data of all `logs` events. */
function textOf(stream: string): string {
  return stream
    .split("\n\n")
    .filter((event) => event.startsWith("event: logs"))
    .map((event) =>
      event
        .split("\n")
        .flatMap((line) => (line.startsWith("data: ") ? [line.slice(6)] : []))
        .join("\n"),
    )
    .join("");
}
