/** The registry's and the builds' part of the {@link FakeEdge}: packages as they were pushed, and what origins tell of builds. */
import { createHash } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { type BuildAck, BuildEventsSchema } from "../../schema/origin-protocol.ts";
import type { BuildEvent, Package } from "../../schema/packages.ts";
import { planSource } from "../packaging/pack.ts";

export class FakeRegistry {
  /** by digest */
  readonly manifests = new Map<string, Buffer>();
  readonly blobs = new Map<string, Buffer>();
  /** by id of the version */
  readonly packages = new Map<string, Package>();
  /** by id of the build */
  readonly events = new Map<string, BuildEvent[]>();
  /** path and range of every read of a blob, in order */
  readonly reads: string[] = [];
  /** bytes after which a read breaks off; null lets it end */
  cutAfter: (read: number) => number | null = () => null;
  /** answers 503 to events of builds */
  isAway = false;
  /** what to acknowledge instead of `stored` */
  outcome: BuildAck["outcome"] = "stored";

  /** As `cogway push` does; answers the digest of the manifest. */
  async push(folder: string): Promise<{ manifest: string; id: string }> {
    const plan = await planSource(folder);
    for (const { descriptor, open } of plan.blobs) {
      const chunks: Buffer[] = [];
      for await (const chunk of open()) chunks.push(chunk);
      this.blobs.set(descriptor.digest, Buffer.concat(chunks));
    }
    this.manifests.set(plan.manifest_digest, plan.manifest_bytes);
    return { manifest: plan.manifest_digest, id: plan.id };
  }

  /** A manifest that nobody packed; answers its digest. */
  put(manifest: unknown): string {
    const bytes = Buffer.from(JSON.stringify(manifest));
    const digest = digestOf(bytes);
    this.manifests.set(digest, bytes);
    return digest;
  }

  putBlob(bytes: Buffer): string {
    const digest = digestOf(bytes);
    this.blobs.set(digest, bytes);
    return digest;
  }

  /** False for what is not its own. */
  serve(request: IncomingMessage, body: Buffer, response: ServerResponse): boolean {
    const path = request.url ?? "";
    const [, , , area = "", ...rest] = path.split("/");
    if (area === "builds") this.#events(rest[0] ?? "", body, response);
    else if (area === "packages") answer(response, this.packages.get(rest[2] ?? ""));
    else if (area === "repositories" && rest[2] === "manifests")
      this.#bytes(this.manifests.get(rest[3] ?? ""), response);
    else if (area === "repositories" && rest[2] === "blobs") this.#blob(rest[3] ?? "", request, response);
    else return false;
    return true;
  }

  #events(buildId: string, body: Buffer, response: ServerResponse): void {
    if (this.isAway) {
      answer(response, { detail: "away" }, 503);
      return;
    }
    const stored = this.events.get(buildId) ?? [];
    if (this.outcome === "stored") {
      for (const event of BuildEventsSchema.parse(JSON.parse(body.toString("utf8"))).events) {
        if (event.i === stored.length) stored.push(event);
      }
    }
    this.events.set(buildId, stored);
    answer(response, { through_i: stored.length - 1, outcome: this.outcome });
  }

  #blob(digest: string, request: IncomingMessage, response: ServerResponse): void {
    const read = this.reads.length;
    this.reads.push(`${digest} ${request.headers.range ?? ""}`);
    const bytes = this.blobs.get(digest);
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    if (bytes === undefined || range === null) {
      this.#bytes(bytes, response);
      return;
    }
    const part = bytes.subarray(Number(range[1]), Number(range[2]) + 1);
    const cut = this.cutAfter(read);
    response.writeHead(206, { "content-length": part.length });
    if (cut === null) response.end(part);
    else response.write(part.subarray(0, cut), () => response.destroy());
  }

  #bytes(bytes: Buffer | undefined, response: ServerResponse): void {
    if (bytes === undefined) answer(response, undefined);
    else response.writeHead(200, { "content-length": bytes.length }).end(bytes);
  }
}

function answer(response: ServerResponse, value: unknown, status = 200): void {
  const isThere = value !== undefined;
  response
    .writeHead(isThere ? status : 404, { "content-type": "application/json" })
    .end(JSON.stringify(value ?? { detail: "there is no such thing" }));
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}
