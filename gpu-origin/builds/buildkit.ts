/**
 * Builds an image by BuildKit, through the engine's API: the context goes as a stream, progress comes as a stream, secrets are asked back for on a session.
 * Ends when its signal says so, and then nothing of it runs on: the engine is told, and the connection that it builds for is closed.
 *
 * Debian's 20.10 (API 1.41) and newer engines take the same call, as long as the Dockerfile has no `# syntax` line, no here-document and no `COPY --link`.
 */
import { randomUUID } from "node:crypto";
import type { Readable } from "node:stream";
import type Docker from "dockerode";
import { BuildProgress, type ProgressWatch, type StepFailure } from "./buildkit-progress.ts";
import { openSession } from "./buildkit-session.ts";
import { dial, messageOf } from "./engine-call.ts";

/** One message of progress; a step's log comes in pieces far below. */
const MESSAGE_BYTES_MAX = 8 * 1024 ** 2;
/** The engine answers at once when it can. */
const CANCEL_TIMEOUT_MS = 5_000;

export interface ImageBuild {
  /** a tar with `Dockerfile` in its root; read once, never whole in memory */
  context: Readable;
  /** not part of the image or of any cache key where the name is one of BuildKit's own, as the proxies' are */
  buildArgs: Record<string, string>;
  /** by id, as `RUN --mount=type=secret` asks for them */
  secrets: ReadonlyMap<string, Buffer>;
  watch: ProgressWatch;
  signal: AbortSignal;
}

export type ImageBuilt =
  | { kind: "built"; imageId: string }
  | { kind: "failed" /** null where it was no step of the Dockerfile */; failure: StepFailure | null; detail: string }
  | { kind: "aborted" };

export async function buildImage(docker: Docker, build: ImageBuild): Promise<ImageBuilt> {
  const progress = new BuildProgress(build.watch);
  const buildId = randomUUID();
  let session: Awaited<ReturnType<typeof openSession>> | null = null;
  const cancel = (): void => void cancelBuild(docker, buildId);
  try {
    build.signal.throwIfAborted();
    session = await openSession(docker, build.secrets);
    build.signal.addEventListener("abort", cancel, { once: true });
    const answer = await dial(docker, {
      method: "POST",
      path: "/build?",
      options: {
        version: "2",
        session: session.id,
        buildid: buildId,
        dockerfile: "Dockerfile",
        rm: "1",
        forcerm: "1",
        buildargs: JSON.stringify(build.buildArgs),
      },
      file: build.context,
      isStream: true,
      statusCodes: { 200: true, 400: "bad request", 500: "server error" },
      abortSignal: build.signal,
    });
    for await (const line of linesOf(answer)) progress.read(line);
    progress.end();
  } catch (error) {
    if (build.signal.aborted) return { kind: "aborted" };
    return { kind: "failed", failure: null, detail: `The engine did not build: ${messageOf(error)}` };
  } finally {
    build.signal.removeEventListener("abort", cancel);
    build.context.destroy();
    session?.close();
  }
  if (build.signal.aborted) return { kind: "aborted" };
  if (progress.error !== null) return { kind: "failed", failure: progress.failure, detail: progress.error };
  if (progress.imageId === null) return { kind: "failed", failure: null, detail: "The engine ended without an image." };
  return { kind: "built", imageId: progress.imageId };
}

/** Closing the connection says it too; an engine that is slow to see that hears it twice. */
async function cancelBuild(docker: Docker, buildId: string): Promise<void> {
  try {
    const answer = await dial(docker, {
      method: "POST",
      path: "/build/cancel?",
      options: { id: buildId },
      isStream: true,
      statusCodes: { 200: true, 204: true, 404: true },
      abortSignal: AbortSignal.timeout(CANCEL_TIMEOUT_MS),
    });
    answer.resume();
  } catch {
    // It is over already, or the engine is away.
  }
}

async function* linesOf(stream: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let rest: Buffer = Buffer.of();
  for await (const chunk of stream) {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    for (let at = rest.indexOf(10); at !== -1; at = rest.indexOf(10)) {
      yield rest.toString("utf8", 0, at);
      rest = rest.subarray(at + 1);
    }
    if (rest.length > MESSAGE_BYTES_MAX) throw new Error("a message of its progress is too long");
  }
  if (rest.length > 0) yield rest.toString("utf8");
}
