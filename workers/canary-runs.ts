/** The Worker's part of canaries: what the catalog says of versions and their examples, and who hears of it. Called by the CanaryObject alone; no route leads here. */
import { WorkerEntrypoint } from "cloudflare:workers";
import type { CanaryRunsApi, CanaryVersion, ListedVersion, Prepared } from "../durable-objects/canary-contract.ts";
import { searchStub } from "../durable-objects/stubs.ts";
import { prepareCanary } from "./domain/prepare-canary.ts";
import { tellOwner } from "./domain/tell-owner.ts";
import { type Edge, settingsOf } from "./env.ts";
import { listPublicVersions, markHealth, publicVersionsOf } from "./storage/canaries.ts";

export class CanaryRuns extends WorkerEntrypoint<Env> implements CanaryRunsApi {
  #edge(): Edge {
    return { env: this.env, settings: settingsOf(this.env), later: (work) => this.ctx.waitUntil(work) };
  }

  async page(after: CanaryVersion | null, limit: number): Promise<ListedVersion[]> {
    return listPublicVersions(this.env.DB, after, limit);
  }

  async versionsOf(models: string[], limit: number): Promise<ListedVersion[]> {
    return publicVersionsOf(this.env.DB, models, limit);
  }

  async prepare(version: CanaryVersion): Promise<Prepared> {
    return prepareCanary(this.#edge(), version);
  }

  async mark(version: CanaryVersion, unhealthy_since: number | null): Promise<void> {
    const isChanged = await markHealth(this.env.DB, version, unhealthy_since, Date.now());
    // The index finds it by itself within a minute.
    if (isChanged) this.ctx.waitUntil(searchStub(this.env).changed([`${version.owner}/${version.name}`]));
  }

  async tellOwner(
    version: CanaryVersion,
    facts: { unhealthy_since: number; used_at: number; error: string | null },
  ): Promise<void> {
    await tellOwner(this.#edge(), version, facts);
  }
}
