/**
 * The image of a version in the engine: the context that it is built of, what is taken out of it afterwards, and the last small layer with the schema and the
 * labels. That one is a commit of a container that never ran: labels then need no quoting, may have line breaks, and may be longer than a line of a Dockerfile.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import type Docker from "dockerode";
import { extract, type Pack, pack } from "tar-stream";
import { z } from "zod";
import { SOURCE_LARGE_FILE_BYTES } from "../../schema/packages.ts";
import { SOURCE_FILE_MODE } from "../packaging/pack.ts";
import type { SourceFile } from "../packaging/source.ts";
import type { Mount, SourceFolder } from "./builder.ts";
import { type ImagePlan, LOCK_PATH, MODEL_UID, REQUIREMENTS_FOLDER, SOURCE_FOLDER } from "./dockerfile.ts";

/** Of all images of versions; their tags are the versions' ids. */
export const IMAGE_REPOSITORY = "cogway/version";
/** Thousands of packages are below it. */
const LOCK_BYTES_MAX = 4 * 1024 ** 2;
/** Containers that only hold an image while something is taken out of it or added; its value names the origin. */
export const HOLDER_LABEL = "run.cogway.holder";

export function tagOf(versionId: string): string {
  return `${IMAGE_REPOSITORY}:${versionId}`;
}

/** Small files are part of the image; large ones are mounted, shared with other versions. */
export function isInImage(file: SourceFile): boolean {
  return file.size_bytes < SOURCE_LARGE_FILE_BYTES;
}

export function largeFileMounts({ folder, files }: SourceFolder): Mount[] {
  return files
    .filter((file) => !isInImage(file))
    .map(({ path }) => ({ source: join(folder, path), target: `${SOURCE_FOLDER}/${path}` }));
}

/** Everything that BuildKit gets, as a tar that is made while it is read. `localFiles` are paths of the source that the requirements name. */
export function contextOf(plan: ImagePlan, source: SourceFolder, localFiles: string[]): Readable {
  const tar = pack();
  void fill(tar, plan, source, localFiles).catch((error: unknown) =>
    tar.destroy(error instanceof Error ? error : new Error(String(error))),
  );
  return Readable.from(tar);
}

/** One file at a time: small ones alone are part of it, and wheels. */
async function fill(tar: Pack, plan: ImagePlan, source: SourceFolder, localFiles: string[]): Promise<void> {
  await add(tar, "Dockerfile", Buffer.from(plan.dockerfile));
  for (const file of plan.files) await add(tar, file.path, Buffer.from(file.text));
  for (const path of localFiles) {
    await add(tar, `${REQUIREMENTS_FOLDER}/${path}`, await readFile(join(source.folder, path)));
  }
  // The folder is there even where all files are large; and a mounted file needs a folder to be mounted in.
  const folders = new Set(["source/"]);
  for (const file of source.files) {
    const parts = file.path.split("/").slice(0, -1);
    for (const [index] of parts.entries()) folders.add(`source/${parts.slice(0, index + 1).join("/")}/`);
  }
  for (const name of folders) tar.entry({ name, type: "directory", mode: 0o755, mtime: new Date(0) });
  for (const file of source.files.filter(isInImage)) {
    await add(tar, `source/${file.path}`, await readFile(join(source.folder, file.path)));
  }
  tar.finalize();
}

function add(tar: Pack, name: string, content: Buffer): Promise<void> {
  const header = { name, mode: SOURCE_FILE_MODE, mtime: new Date(0), size: content.length };
  return new Promise((resolve, reject) => {
    tar.entry(header, content, (error) => (error === undefined || error === null ? resolve() : reject(error)));
  });
}

/** Gives `use` a container of the image that never runs. */
async function holding<T>(
  docker: Docker,
  image: string,
  originId: string,
  use: (container: Docker.Container) => Promise<T>,
): Promise<T> {
  const container = await docker.createContainer({
    Image: image,
    Labels: { [HOLDER_LABEL]: originId },
    HostConfig: { NetworkMode: "none" },
  });
  try {
    return await use(container);
  } finally {
    await container.remove({ force: true, v: true }).catch(() => {});
  }
}

/** What was installed, as the build wrote it down. */
export function readLock(docker: Docker, image: string, originId: string): Promise<string> {
  return holding(docker, image, originId, async (container) => {
    const archive = await container.getArchive({ path: LOCK_PATH });
    const reader = extract();
    archive.pipe(reader);
    for await (const entry of reader) {
      // A build may have put anything in its place.
      if (entry.header.type !== "file") break;
      if ((entry.header.size ?? 0) > LOCK_BYTES_MAX) throw new Error("the list of installed packages is too long");
      return (await text(entry)).trim();
    }
    throw new Error("the list of installed packages is missing");
  });
}

export interface Finish {
  originId: string;
  /** whose image the result is */
  version_id: string;
  labels: Record<string, string>;
  /** as coglet gets it */
  schema: Record<string, unknown>;
  env: Record<string, string>;
}

/** Adds the schema's layer and the labels, and names the result. */
export function finishImage(docker: Docker, image: string, finish: Finish): Promise<string> {
  return holding(docker, image, finish.originId, async (container) => {
    const tar = pack();
    const owner = { uid: MODEL_UID, gid: MODEL_UID, mtime: new Date(0) };
    const folder = `${SOURCE_FOLDER.slice(1)}/.cog`;
    tar.entry({ name: `${folder}/`, type: "directory", mode: 0o755, ...owner });
    tar.entry({ name: `${folder}/openapi_schema.json`, mode: 0o644, ...owner }, JSON.stringify(finish.schema));
    tar.finalize();
    await container.putArchive(Readable.from(tar), { path: "/" });
    const made: unknown = await container.commit({
      _query: { container: container.id, repo: IMAGE_REPOSITORY, tag: finish.version_id },
      // What is not named here stays as the image has it.
      _body: { Labels: finish.labels, Env: Object.entries(finish.env).map(([name, value]) => `${name}=${value}`) },
    });
    return z.object({ Id: z.string() }).parse(made).Id;
  });
}
