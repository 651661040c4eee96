/** Models that people make, and versions in them, for tests of the catalog. */
import { env } from "cloudflare:workers";
import { expect } from "vitest";
import { newId } from "../../schema/ids.ts";
import type { ProblemDocument } from "../../schema/problems.ts";
import { forgetModel } from "../storage/models.ts";
import { anAnnounce, call, problemOf } from "./edge.ts";

export interface Person {
  id: string;
  username: string;
  token: string;
}
export type Json = Record<string, unknown>;

export async function aModel(by: Person, change: Json = {}): Promise<string> {
  const body = { owner: by.username, name: `m${newId(10)}`, visibility: "private", hardware: "cpu", ...change };
  const answer = await call("POST", "/v1/models", { token: by.token, body });
  expect(answer.status).toBe(201);
  const { owner, name } = await answer.json<{ owner: string; name: string }>();
  return `/v1/models/${owner}/${name}`;
}

let versions = 0x1000;
/** A version in a model, as a training makes one. */
export async function aVersion(
  path: string,
  { created_at = Date.now(), base, unseen = false }: { created_at?: number; base?: string; unseen?: boolean } = {},
): Promise<string> {
  versions += 1;
  const id = versions.toString(16).padStart(64, "a");
  const [, , , owner = "", name = ""] = path.split("/");
  const schema = anAnnounce().version?.openapi_schema;
  await env.DB.batch([
    env.DB.prepare(
      "INSERT INTO versions (owner, name, id, openapi_schema, cog_version, slots, memory_bytes, hardware, idempotent, base_version_id, created_at) VALUES (?, ?, ?, ?, '0.17.0', 500, 1000000, 'cpu', 0, ?, ?)",
    ).bind(owner, name, id, JSON.stringify(schema), base ?? null, created_at),
    env.DB.prepare("UPDATE models SET latest_version_id = ?, latest_version_at = ? WHERE owner = ? AND name = ?").bind(
      id,
      created_at,
      owner,
      name,
    ),
  ]);
  // One that is made elsewhere is not seen at once.
  if (!unseen) forgetModel(owner, name);
  return id;
}

export async function status(method: string, path: string, who: Person | undefined, body?: unknown): Promise<number> {
  const answer = await call(method, path, { ...(who === undefined ? {} : { token: who.token }), body });
  if (answer.status >= 400) expect((await problemOf(answer)).status).toBe(answer.status);
  else await answer.body?.cancel();
  return answer.status;
}

export async function jsonOf<T = Json>(method: string, path: string, who: Person, body?: unknown): Promise<T> {
  const answer = await call(method, path, { token: who.token, body });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

export async function refusal(method: string, path: string, who: Person, body?: unknown): Promise<ProblemDocument> {
  return problemOf(await call(method, path, { token: who.token, body }));
}
