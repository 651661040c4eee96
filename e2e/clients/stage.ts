/** What every client is tried against: a fresh system over one protocol, a receiver of webhooks, and accounts that no other test touches. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import tls from "node:tls";
import type { Api } from "../lib/api.ts";
import { WebhookReceiver } from "../lib/receiver.ts";
import { CACHE, System, temporaryFolder } from "../lib/system.ts";
import { waitFor } from "../lib/wait.ts";

export type Protocol = "http" | "https";
export const PROTOCOLS: Protocol[] = ["http", "https"];
export const COLLECTION = "plain-things";
/** More than two pages of 100 hold, so that a page in the middle has both links. */
export const PAGED_PREDICTIONS = 205;
/** What clients need of their own: Python environments, Go modules. Kept between runs. */
export const CLIENTS_CACHE = join(CACHE, "clients");

const MODELS = ["noop", "tokens", "inputs", "files", "file-iterator", "picture", "trainer"];
/** A limit that no client reaches. */
const MANY_PER_MINUTE = 60_000;
const CREATES_AT_ONCE = 16;
const AUTHORITY_TIMEOUT_MS = 120_000;

export class Stage {
  readonly protocol: Protocol;
  readonly system: System;
  readonly receiver: WebhookReceiver;
  /** An account with {@link PAGED_PREDICTIONS} predictions. */
  readonly pager: Api;
  readonly #data: string;
  readonly #trusted: string[];

  private constructor(
    protocol: Protocol,
    started: { system: System; receiver: WebhookReceiver; pager: Api; data: string; trusted: string[] },
  ) {
    this.protocol = protocol;
    this.system = started.system;
    this.receiver = started.receiver;
    this.pager = started.pager;
    this.#data = started.data;
    this.#trusted = started.trusted;
  }

  static async start(protocol: Protocol): Promise<Stage> {
    const data = temporaryFolder();
    const trusted = tls.getCACertificates("default");
    const receiver = await WebhookReceiver.start();
    const env = { COGWAY_ALLOW_PRIVATE_URLS: "127.0.0.1/32", ...(protocol === "https" ? { COGWAY_TLS: "1" } : {}) };
    const starting = System.start({ models: MODELS, env, data });
    if (protocol === "https") await Promise.all([trustAuthority(data, trusted), starting]);
    const system = await starting;
    const models = ["cogway/noop", "cogway/tokens"];
    const collection = { name: "Plain things", description: "Small models", full_description: "# Plain", models };
    const saved = await system.api.request("PUT", `/admin/v1/collections/${COLLECTION}`, { body: collection });
    if (saved.status !== 200) throw new Error(saved.text);
    const pager = await newAccount(system, "pager");
    await makePredictions(pager);
    return new Stage(protocol, { system, receiver, pager, data, trusted });
  }

  /** An account with limits that no client reaches, unless given. */
  account(username: string, limits?: Record<string, number>): Promise<Api> {
    return newAccount(this.system, username, limits);
  }

  /** What programs other than this one need to know of the system; https is trusted by the file of the local authority. */
  environment(api: Api): Record<string, string> {
    return {
      REPLICATE_API_TOKEN: api.token,
      ...(this.protocol === "https" ? { SSL_CERT_FILE: authorityFile(this.#data) } : {}),
      COGWAY_URL: this.system.url,
      COGWAY_PROTOCOL: this.protocol,
      PAGER_TOKEN: this.pager.token,
      PAGED_PREDICTIONS: String(PAGED_PREDICTIONS),
      COLLECTION,
    };
  }

  async stop(): Promise<void> {
    tls.setDefaultCACertificates(this.#trusted);
    await this.system.stop();
    this.receiver.stop();
    rmSync(this.#data, { recursive: true, force: true });
  }
}

function authorityFile(data: string): string {
  return join(data, "tls/authority.pem");
}

/** As a user does who is told to trust the local authority. */
async function trustAuthority(data: string, trusted: string[]): Promise<void> {
  const authority = await waitFor("the local authority", AUTHORITY_TIMEOUT_MS, () =>
    readFileSync(authorityFile(data), "utf8"),
  );
  tls.setDefaultCACertificates([...trusted, authority]);
}

function newAccount(system: System, username: string, limits: Record<string, number> = {}): Promise<Api> {
  return system.api.newAccount(username, {
    creates_per_minute: MANY_PER_MINUTE,
    reads_per_minute: MANY_PER_MINUTE,
    ...limits,
  });
}

async function makePredictions(api: Api): Promise<void> {
  let next = 0;
  const makeSome = async (): Promise<void> => {
    for (let n = next++; n < PAGED_PREDICTIONS; n = next++) await api.create("noop", { text: `text ${n}` });
  };
  await Promise.all(Array.from({ length: CREATES_AT_ONCE }, makeSome));
}
