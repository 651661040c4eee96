/**
 * Takes an image of a version from the registry of the edge into the engine, by the digest of its manifest. The engine fetches; what it has of an image that
 * was cut off it keeps, so the next try goes on. Each try has a token of its own, since a large image may take longer than one lives.
 */
import { setTimeout as wait } from "node:timers/promises";
import type Docker from "dockerode";
import { z } from "zod";
import type { EdgeClient } from "../edge-client.ts";
import { megabytes, saysDiskFull } from "./disk.ts";
import { messageOf } from "./engine-call.ts";

/** Of one image, all tries together; tens of gigabytes at 50 MB/s. */
const PULL_TIMEOUT_MS = 30 * 60_000;
const TRIES_MAX = 5;
const RETRY_MS = 1_000;
const PROGRESS_MS = 1_000;

export interface Pull {
  /** of the registry, with its port */
  host: string;
  /** owner/name */
  repository: string;
  /** of the image's manifest */
  digest: string;
  onProgress(detail: string): void;
  signal: AbortSignal;
}

export type Pulled = { kind: "pulled"; reference: string } | { kind: "failed"; detail: string };

const EventSchema = z.object({
  id: z.string().optional(),
  status: z.string().optional(),
  error: z.string().optional(),
  progressDetail: z.object({ current: z.number().optional(), total: z.number().optional() }).optional(),
});

export async function pullImage(docker: Docker, edge: Pick<EdgeClient, "registryToken">, pull: Pull): Promise<Pulled> {
  const reference = `${pull.host}/${pull.repository}@${pull.digest}`;
  const timeout = AbortSignal.timeout(PULL_TIMEOUT_MS);
  const signal = AbortSignal.any([pull.signal, timeout]);
  let detail = "";
  for (let tries = 1; tries <= TRIES_MAX && !signal.aborted; tries++) {
    if (tries > 1) await wait(RETRY_MS * 2 ** (tries - 2), null, { signal }).catch(() => {});
    const token = await edge.registryToken(pull.repository);
    if (token.kind === "refused") return { kind: "failed", detail: `The image cannot be pulled: ${token.detail}` };
    if (token.kind === "unavailable") {
      detail = token.detail;
      continue;
    }
    try {
      await pullOnce(docker, reference, token.value.token, pull.onProgress, signal);
      return { kind: "pulled", reference };
    } catch (error) {
      detail = messageOf(error);
    }
    if (saysDiskFull(detail))
      return { kind: "failed", detail: "The image cannot be pulled: the engine's disk is full." };
    // The registry has not got it, or refuses it: another try is answered the same.
    if (/manifest unknown|not found|denied|unauthorized/i.test(detail)) break;
  }
  if (pull.signal.aborted) return { kind: "failed", detail: "given up" };
  if (timeout.aborted) {
    return {
      kind: "failed",
      detail: `The image took longer than ${PULL_TIMEOUT_MS / 60_000} minutes; what came is kept.`,
    };
  }
  return { kind: "failed", detail: `The image cannot be pulled from ${pull.host}: ${advise(detail)}` };
}

async function pullOnce(
  docker: Docker,
  reference: string,
  token: string,
  onProgress: (detail: string) => void,
  signal: AbortSignal,
): Promise<void> {
  // The engine gives it to the registry as it is, and asks for no other.
  const stream = await docker.pull(reference, { authconfig: { registrytoken: token }, abortSignal: signal });
  const layers = new Map<string, { current: number; total: number; isDone: boolean }>();
  let shownAt = 0;
  let rest = "";
  for await (const chunk of stream) {
    signal.throwIfAborted();
    const lines = `${rest}${chunk.toString()}`.split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const event = EventSchema.safeParse(parseJson(line));
      if (!event.success) continue;
      const { id, status, error, progressDetail } = event.data;
      if (error !== undefined) throw new Error(error);
      if (id === undefined || status === undefined || /^Pulling from/.test(status)) continue;
      const layer = layers.get(id) ?? { current: 0, total: 0, isDone: false };
      layers.set(id, layer);
      if (status === "Downloading") {
        layer.current = progressDetail?.current ?? layer.current;
        layer.total = progressDetail?.total ?? layer.total;
      }
      if (/^(Pull complete|Already exists)/.test(status)) layer.isDone = true;
      if (status === "Download complete") layer.current = layer.total;
    }
    if (layers.size === 0 || Date.now() - shownAt < PROGRESS_MS) continue;
    shownAt = Date.now();
    onProgress(describe([...layers.values()]));
  }
}

function describe(layers: { current: number; total: number; isDone: boolean }[]): string {
  const done = layers.filter((layer) => layer.isDone).length;
  const sum = (of: (layer: { current: number; total: number }) => number): number =>
    layers.reduce((bytes, layer) => bytes + of(layer), 0);
  const [current, total] = [sum((layer) => layer.current), sum((layer) => layer.total)];
  const bytes = total === 0 ? "" : `, ${megabytes(current)} of ${megabytes(total)}`;
  return `pulling the image: ${done} of ${layers.length} layers${bytes}`;
}

/** The engine's own words do not say what to do about its trust. */
function advise(detail: string): string {
  if (/gave HTTP response to HTTPS client|x509|certificate/i.test(detail)) {
    return `${detail}. The engine must trust the edge: give it an https address with a known certificate, or name it in the engine's insecure-registries.`;
  }
  return detail === "" ? "it did not answer" : detail;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
