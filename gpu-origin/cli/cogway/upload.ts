/** Brings a plan's blobs to the registry: asks which it has, sends the others side by side, each until it is there. */
import type { SourceBlob, SourcePlan } from "../../packaging/pack.ts";
import { CliFault } from "./fault.ts";
import { type RegistryClient, RegistryFault } from "./registry-client.ts";
import { type Failure, retried } from "./retry.ts";

/** Blobs that are sent at the same time, as Cog has it. */
export const CONCURRENCY = 5;
export const CONCURRENCY_MAX = 32;

/** Told how a blob fares; each try begins with `begin`. */
export interface UploadProgress {
  known(blob: SourceBlob): void;
  begin(blob: SourceBlob): void;
  sent(blob: SourceBlob, count: number): void;
  retry(blob: SourceBlob, pauseMs: number, reason: string): void;
  done(blob: SourceBlob): void;
}

export interface Uploaded {
  /** layers of the source; the empty config is none */
  layers: number;
  layers_sent: number;
  bytes: number;
  bytes_sent: number;
}

export async function uploadBlobs(
  registry: RegistryClient,
  plan: SourcePlan,
  progress: UploadProgress,
  options: { concurrency: number; abort: AbortController },
): Promise<Uploaded> {
  const { signal } = options.abort;
  const isLayer = (blob: SourceBlob): boolean => blob.descriptor.digest !== plan.manifest.config.digest;
  const layers = plan.blobs.filter(isLayer);
  const sizeOf = (blobs: SourceBlob[]): number => blobs.reduce((sum, { descriptor }) => sum + descriptor.size, 0);
  const sent: SourceBlob[] = [];
  const waiting = [...plan.blobs];
  const work = async (): Promise<void> => {
    for (let blob = waiting.shift(); blob !== undefined; blob = waiting.shift()) {
      const isNew = await uploadBlob(registry, blob, progress, signal);
      if (isNew && isLayer(blob)) sent.push(blob);
    }
  };
  const workers = Array.from({ length: options.concurrency }, work);
  try {
    await Promise.all(workers);
  } catch (error) {
    // The others stop too; what they had sent whole is kept.
    if (!signal.aborted) options.abort.abort(error);
    await Promise.allSettled(workers);
    throw signal.reason;
  }
  return { layers: layers.length, layers_sent: sent.length, bytes: sizeOf(layers), bytes_sent: sizeOf(sent) };
}

/** False where the registry had it. */
async function uploadBlob(
  registry: RegistryClient,
  blob: SourceBlob,
  progress: UploadProgress,
  signal: AbortSignal,
): Promise<boolean> {
  const { descriptor } = blob;
  const onRetry = (pauseMs: number, error: unknown): void => progress.retry(blob, pauseMs, reasonOf(error));
  try {
    return await retried(
      async () => {
        if (await registry.hasBlob(descriptor.digest)) {
          progress.known(blob);
          return false;
        }
        progress.begin(blob);
        await registry.putBlob(descriptor, blob.open, (count) => progress.sent(blob, count));
        progress.done(blob);
        return true;
      },
      failureOf,
      { signal, onRetry },
    );
  } catch (error) {
    throw uploadFault(error, blob.label);
  }
}

/** Null for what no other try can mend, such as a file that changed. */
export function failureOf(error: unknown): Failure | null {
  return error instanceof RegistryFault ? error.failure : null;
}

function uploadFault(error: unknown, label: string): unknown {
  if (!(error instanceof RegistryFault)) return error;
  const { status, message } = error;
  // Refusals say themselves what is wrong; a failure of the platform's own does not.
  const advice =
    status === null || status >= 500
      ? "See whether the platform runs and has room on its disk, then push again"
      : "Push again when that is mended";
  return new CliFault(`${label} was not stored: ${message}. ${advice}: what arrived is not sent twice.`, {
    cause: error,
  });
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
