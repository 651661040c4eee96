import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { deploymentStub } from "../durable-objects/stubs.ts";
import type { InstanceBoot } from "../schema/origin-protocol.ts";
import { OPERATOR_ACCOUNT_ID, OPERATOR_USERNAME } from "../schema/tables/operator-seed.ts";
import {
  anAccount,
  anAnnounce,
  aToken,
  call,
  FakeOrigin,
  predictionOf,
  problemOf,
  theOperator,
} from "./testing/edge.ts";

let origin: FakeOrigin;
let operator: string;
const MODEL = `${OPERATOR_USERNAME}/deployed`;
const versions: string[] = [];

/** Announces another version of the model. */
function aVersion(name = "deployed", visibility: "public" | "private" = "public"): Promise<string> {
  return origin.announce(name, anAnnounce({ visibility }));
}

beforeAll(async () => {
  operator = await theOperator();
  origin = await FakeOrigin.join();
  versions.push(await aVersion(), await aVersion());
});

let names = 0;
function aConfiguration(change: Record<string, unknown> = {}): Record<string, unknown> & { name: string } {
  names += 1;
  return {
    name: `service-${names}`,
    model: MODEL,
    version: versions[0],
    hardware: "cpu",
    min_instances: 0,
    max_instances: 2,
    ...change,
  };
}

interface WireDeployment {
  owner: string;
  name: string;
  current_release: {
    number: number;
    version: string;
    created_by: Record<string, unknown>;
    configuration: { hardware: string; min_instances: number; max_instances: number };
  };
  status?: { instances: Record<string, number>; wanted_instances: number; queue_length: number; reason: string };
}

async function aDeployment(token: string, change: Record<string, unknown> = {}): Promise<WireDeployment> {
  const answer = await call("POST", "/v1/deployments", { token, body: aConfiguration(change) });
  if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function patch(token: string, { owner, name }: WireDeployment, body: unknown): Promise<WireDeployment> {
  const answer = await call("PATCH", `/v1/deployments/${owner}/${name}`, { token, body });
  if (answer.status !== 200) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function statusOf(token: string, { owner, name }: WireDeployment): Promise<WireDeployment["status"]> {
  const answer = await call("GET", `/v1/deployments/${owner}/${name}`, { token });
  return (await answer.json<WireDeployment>()).status;
}

/** What was booted for a deployment, ready now. */
async function bootReady({ owner, name }: WireDeployment): Promise<InstanceBoot[]> {
  const own = () => origin.boots.filter((boot) => boot.deployment_key === `deployment:${owner}/${name}`);
  await vi.waitFor(() => expect(own()).not.toEqual([]));
  const boots = own();
  await origin.bringUp();
  return boots;
}

describe("a deployment", () => {
  it("guarantees what Replicate's clients read of it, numbered from 1", async () => {
    const { username, token } = await anAccount();
    const configuration = aConfiguration({ min_instances: 0, max_instances: 3 });
    const answer = await call("POST", "/v1/deployments", { token, body: configuration });
    expect(answer.status).toBe(200);
    expect(await answer.json()).toEqual({
      owner: username,
      name: configuration.name,
      current_release: {
        number: 1,
        model: MODEL,
        version: versions[0],
        created_at: expect.any(String),
        created_by: { type: "user", username, name: "Test", avatar_url: null, github_url: null },
        configuration: { hardware: "cpu", min_instances: 0, max_instances: 3 },
      },
    });
    const again = await call("POST", "/v1/deployments", { token, body: configuration });
    expect(again.status).toBe(409);
    expect((await problemOf(again)).code).toBe("deployment.name_taken");
  });

  it("guarantees one more release for each change and none for no change, all of them listed", async () => {
    const { username, token } = await anAccount();
    const made = await aDeployment(token);
    expect((await patch(token, made, { max_instances: 2 })).current_release.number).toBe(1);
    expect((await patch(token, made, {})).current_release.number).toBe(1);
    expect((await patch(token, made, { max_instances: 4 })).current_release).toMatchObject({
      number: 2,
      version: versions[0],
      configuration: { min_instances: 0, max_instances: 4 },
    });
    expect((await patch(token, made, { version: versions[1] })).current_release).toMatchObject({
      number: 3,
      version: versions[1],
    });
    const list = await call("GET", `/v1/deployments/${username}/${made.name}/releases`, { token });
    const { results } = await list.json<{ results: WireDeployment["current_release"][] }>();
    expect(results.map(({ number }) => number)).toEqual([3, 2, 1]);
  });

  it("guarantees that its owner sees how it scales and why, and nobody else", async () => {
    const { username, token } = await anAccount();
    const made = await aDeployment(token, { min_instances: 1, max_instances: 3 });
    const path = `/v1/deployments/${username}/${made.name}/scaling`;
    const seen = await (await call("GET", path, { token })).json<Record<string, unknown>>();
    expect(seen).toMatchObject({
      current: { wanted_instances: 1, reason: "minimum", queued: 0, held_back: null },
      targets: { min_instances: 1, max_instances: 3 },
      windows: { stable_ms: 60_000, panic_ms: 6_000 },
      decisions: [{ at: expect.stringContaining("T"), from: 0, to: 1, reason: "minimum", measures: { queued: 0 } }],
    });
    const unused = await aDeployment(token);
    const idle = await call("GET", `/v1/deployments/${username}/${unused.name}/scaling`, { token });
    expect(await idle.json()).toMatchObject({
      current: { wanted_instances: 0, reason: "nothing to do" },
      decisions: [],
    });
    const other = await call("GET", path, { token: (await anAccount()).token });
    expect(other.status).toBe(404);
  });

  it("guarantees that updates side by side are all made, each with its own number", async () => {
    const { username, token } = await anAccount();
    const made = await aDeployment(token);
    await Promise.all([3, 4, 5, 6].map((max_instances) => patch(token, made, { max_instances })));
    const list = await call("GET", `/v1/deployments/${username}/${made.name}/releases`, { token });
    const { results } = await list.json<{ results: WireDeployment["current_release"][] }>();
    expect(results.map(({ number }) => number)).toEqual([5, 4, 3, 2, 1]);
  });

  it("guarantees that every fault is named at once", async () => {
    const { token } = await anAccount();
    const body = aConfiguration({
      name: "somebody/else",
      version: "f".repeat(64),
      hardware: "abacus",
      min_instances: 3,
    });
    const problem = await problemOf(await call("POST", "/v1/deployments", { token, body }));
    expect(problem.status).toBe(422);
    expect(problem.invalid_fields?.map(({ field }) => field).sort()).toEqual([
      "hardware",
      "min_instances",
      "name",
      "version",
    ]);
    const shape = aConfiguration({
      name: "Not A Name",
      min_instances: 6,
      max_instances: 21,
      version: "latest",
      more: 1,
    });
    const refused = await problemOf(await call("POST", "/v1/deployments", { token, body: shape }));
    expect(refused.status).toBe(422);
    expect(refused.invalid_fields?.map(({ field }) => field)).toEqual(
      expect.arrayContaining(["name", "version", "min_instances", "max_instances"]),
    );
  });

  it("guarantees that no other account sees it, and that a narrow token does what it may", async () => {
    const { id, username, token } = await anAccount();
    const made = await aDeployment(token);
    const other = (await anAccount()).token;
    const path = `/v1/deployments/${username}/${made.name}`;
    const asked: [string, string, unknown?][] = [
      ["GET", path],
      ["PATCH", path, { max_instances: 5 }],
      ["DELETE", path],
      ["GET", `${path}/releases`],
      ["POST", `${path}/predictions`, { input: { text: "hello" } }],
    ];
    for (const [method, url, body] of asked) {
      const answer = await call(method, url, { token: other, ...(body === undefined ? {} : { body }) });
      expect(await problemOf(answer)).toMatchObject({ status: 404, code: "deployment.not_found" });
    }
    const list = await call("GET", "/v1/deployments", { token: other });
    expect((await list.json<{ results: unknown[] }>()).results).toEqual([]);
    const reader = await aToken(id, ["deployments:read"]);
    expect((await call("GET", path, { token: reader })).status).toBe(200);
    for (const [method, url, body] of asked.filter(([method]) => method !== "GET")) {
      const answer = await call(method, url, { token: reader, ...(body === undefined ? {} : { body }) });
      expect((await problemOf(answer)).status).toBe(403);
    }
  });

  it("guarantees that pages show each deployment once, newest first, while new ones come", async () => {
    const { token, username } = await anAccount();
    const rows = Array.from({ length: 205 }, (_, i) => ({ name: `d${String(i).padStart(3, "0")}`, at: 1_000 + i }));
    await env.DB.batch(
      rows.flatMap(({ name, at }) => [
        env.DB.prepare("INSERT INTO deployments VALUES (?, ?, 1, ?)").bind(username, name, at),
        env.DB.prepare("INSERT INTO releases VALUES (?, ?, 1, ?, ?, 'cpu', 0, 1, ?, ?)").bind(
          ...[username, name, MODEL, versions[0] ?? "", at, username],
        ),
      ]),
    );
    const seen: string[] = [];
    let previous: string | null = null;
    for (let next: string | null = "/v1/deployments"; next !== null; ) {
      const page: { next: string | null; previous: string | null; results: WireDeployment[] } = await (
        await call("GET", next, { token })
      ).json();
      seen.push(...page.results.map(({ name }) => name));
      ({ next, previous } = page);
      await aDeployment(token);
    }
    expect(seen).toEqual(rows.map(({ name }) => name).reverse());
    const back: { results: WireDeployment[] } = await (await call("GET", previous ?? "", { token })).json();
    expect(back.results.map(({ name }) => name)).toEqual(seen.slice(100, 200));
  });
});

describe("predictions on a deployment", () => {
  it("guarantees that they run on its own instances, show it and its release's version, and are the caller's", async () => {
    const { username, token } = await anAccount();
    const made = await aDeployment(token, { version: versions[1] });
    const path = `/v1/deployments/${username}/${made.name}/predictions`;
    const created = await predictionOf(await call("POST", path, { token, body: { input: { text: "hello" } } }));
    expect(created).toMatchObject({
      status: "starting",
      model: MODEL,
      version: versions[1],
      deployment: `${username}/${made.name}`,
    });
    await bootReady(made);
    await origin.succeed(created.id, "done");
    await vi.waitFor(async () => {
      const shown = await predictionOf(await call("GET", `/v1/predictions/${created.id}`, { token }));
      expect(shown).toMatchObject({ status: "succeeded", output: "done", deployment: `${username}/${made.name}` });
    });
  });

  it("guarantees that a disabled deployment cancels what it has and refuses more, and works again when it is enabled", async () => {
    const { username, token } = await anAccount();
    const made = await aDeployment(token);
    const path = `/v1/deployments/${username}/${made.name}/predictions`;
    const body = { input: { text: "hello" } };
    const waiting = await predictionOf(await call("POST", path, { token, body }));
    await patch(token, made, { min_instances: 0, max_instances: 0 });
    await vi.waitFor(async () => {
      const shown = await predictionOf(await call("GET", `/v1/predictions/${waiting.id}`, { token }));
      expect(shown.status).toBe("canceled");
    });
    const refused = await problemOf(await call("POST", path, { token, body }));
    expect(refused).toMatchObject({ status: 409, code: "deployment.disabled" });
    expect(refused.detail).toContain("max_instances");
    await patch(token, made, { max_instances: 1 });
    expect((await call("POST", path, { token, body })).status).toBe(201);
  });

  it("guarantees that minimum instances are there before any prediction, and that the status tells of them", async () => {
    const { token } = await anAccount();
    const made = await aDeployment(token, { min_instances: 1 });
    await bootReady(made);
    await vi.waitFor(async () =>
      expect(await statusOf(token, made)).toEqual({
        instances: { boot: 0, setup: 0, ready: 1, draining: 0 },
        older_instances: 0,
        wanted_instances: 1,
        queue_length: 0,
        reason: "minimum",
      }),
    );
  });
});

describe("a deployment whose model went away from its account", () => {
  it("guarantees that it runs nothing more and can still be disabled", async () => {
    const { username, token } = await anAccount();
    await aVersion("withdrawn");
    const version = await aVersion("withdrawn");
    const made = await aDeployment(token, { model: `${OPERATOR_USERNAME}/withdrawn`, version });
    await call("PATCH", `/v1/models/${OPERATOR_USERNAME}/withdrawn`, {
      token: operator,
      body: { visibility: "private" },
    });
    const path = `/v1/deployments/${username}/${made.name}`;
    const run = await call("POST", `${path}/predictions`, { token, body: { input: { text: "hello" } } });
    expect((await problemOf(run)).status).toBe(404);
    const changed = await call("PATCH", path, { token, body: { version } });
    expect(await problemOf(changed)).toMatchObject({ status: 422, invalid_fields: [{ field: "model" }] });
    expect((await patch(token, made, { max_instances: 0 })).current_release.number).toBe(2);
  });
});

describe("deleting", () => {
  it("guarantees that a deployment with instances or recent predictions stays, with what to do, and that its name is free after", async () => {
    const { username, token } = await anAccount();
    const made = await aDeployment(token, { min_instances: 1 });
    const path = `/v1/deployments/${username}/${made.name}`;
    const booted = await bootReady(made);
    const warm = await problemOf(await call("DELETE", path, { token }));
    expect(warm).toMatchObject({ status: 409, code: "deployment.in_use" });
    expect(warm.detail).toContain("min_instances and max_instances to 0");
    const run = await predictionOf(
      await call("POST", `${path}/predictions`, { token, body: { input: { text: "x" } } }),
    );
    await origin.succeed(run.id, "done");
    await patch(token, made, { min_instances: 0, max_instances: 0 });
    await origin.report(booted, "stopped");
    await vi.waitFor(async () => {
      const recent = await problemOf(await call("DELETE", path, { token }));
      expect(recent).toMatchObject({ status: 409, code: "deployment.in_use" });
      expect(recent.detail).toContain("15 minutes");
      expect(recent.retry_after).toBeGreaterThan(800);
    });
    // Its object says so much later.
    const object = deploymentStub(env, `deployment:${username}/${made.name}`);
    expect(await object.retire(0)).toEqual({ retired: true });
    expect((await call("DELETE", path, { token })).status).toBe(204);
    expect((await call("GET", path, { token })).status).toBe(404);
    expect((await call("DELETE", path, { token })).status).toBe(404);
    const again = await call("POST", "/v1/deployments", { token, body: aConfiguration({ name: made.name }) });
    expect((await again.json<WireDeployment>()).current_release.number).toBe(1);
    expect((await call("POST", `${path}/predictions`, { token, body: { input: { text: "anew" } } })).status).toBe(201);
  });

  it("guarantees that one that was never used goes at once", async () => {
    const { username, token } = await anAccount();
    const made = await aDeployment(token);
    expect((await call("DELETE", `/v1/deployments/${username}/${made.name}`, { token })).status).toBe(204);
  });
});

describe("organizations", () => {
  it("guarantees that members use and change what their organization has, and only owners and admins delete it", async () => {
    const organization = await anAccount();
    const member = await anAccount();
    await env.DB.prepare("INSERT INTO members VALUES (?, ?, 'member', 0)").bind(organization.id, member.id).run();
    const made = await aDeployment(member.token, { name: `${organization.username}/shared-${names}` });
    expect(made.owner).toBe(organization.username);
    expect(made.current_release.created_by).toMatchObject({ username: member.username });
    const path = `/v1/deployments/${made.owner}/${made.name}`;
    const body = { input: { text: "hello" } };
    expect((await call("POST", `${path}/predictions`, { token: member.token, body })).status).toBe(201);
    expect((await call("GET", path, { token: organization.token })).status).toBe(200);
    expect(await problemOf(await call("DELETE", path, { token: member.token }))).toMatchObject({ status: 403 });
  });
});

describe("private models", () => {
  it("guarantees that no container life serves two accounts, and that instances of public models serve all", async () => {
    const version = await aVersion("secret-of-the-operator", "private");
    const guest = await anAccount();
    await env.DB.prepare("INSERT INTO shares VALUES (?, 'secret-of-the-operator', ?, 0)")
      .bind(OPERATOR_USERNAME, guest.id)
      .run();
    const body = { version, input: { text: "hello" } };
    const waitingFor = async (key: string) => (await deploymentStub(env, key).describe()).queue_length;
    for (const token of [operator, guest.token]) {
      expect((await call("POST", "/v1/predictions", { token, body })).status).toBe(201);
    }
    await vi.waitFor(async () => {
      expect(await waitingFor(`version:${version}:${OPERATOR_ACCOUNT_ID}`)).toBe(1);
      expect(await waitingFor(`version:${version}:${guest.id}`)).toBe(1);
    });
    const shared = { version: versions[0], input: { text: "hello" } };
    for (const token of [operator, guest.token]) await call("POST", "/v1/predictions", { token, body: shared });
    await vi.waitFor(async () => expect(await waitingFor(`version:${versions[0]}`)).toBe(2));
  });
});
