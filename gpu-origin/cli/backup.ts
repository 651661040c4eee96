/**
 * `npm run backup`: one archive of all that cannot be made again. A running edge stands still (SIGSTOP) while its databases are copied, so the copy is what
 * a crash at that moment would leave, over all of them at once; and a crash loses nothing. Copies of databases taken one after another would not fit together.
 */
import { spawn } from "node:child_process";
import {
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from "node:fs";
import { dirname, join, resolve, sep } from "node:path";
import { readArchive, writeArchive } from "./backup-archive.ts";
import { fileCommand } from "./file-command.ts";
import { ROOT } from "./paths.ts";
import { ProcessFiles, signal } from "./processes.ts";
import { progress } from "./progress.ts";
import { dataFolder, fromCaller, SetupFault } from "./settings.ts";

/** Leases of what runs last 20 s, and the launcher starts an edge anew that is silent for a minute. */
const PAUSE_MAX_MS = 12_000;
/** The edge's state: databases, objects, files. Of an origin only who it is: the rest is made again, and what runs there ends as when its host dies. */
const FOLDER = "edge";
const SECRETS = ["token", "secrets.json"];
const CREDENTIAL = "origin-credential.json";
/** Files of R2: written once under a name of their own, so another name for the same file is as good as a copy. */
const WRITTEN_ONCE = `${sep}blobs${sep}`;

const HELP = `npm run backup [-- FILE]

Writes all state of Cogway that cannot be made again into one archive, FILE or cogway-backup-<time>.tar.gz: the catalog, accounts, predictions, ledgers, files,
the registry, and the secrets: keep it as you keep keys (its mode is 600). Cogway may run meanwhile; its edge stands still while databases are copied
(${PAUSE_MAX_MS / 1000} s at most, usually less than one). What runs at that moment ends in the restored copy as when its host had died. Python environments and prepared
models are not in it: they are made again at the start. The archive is read back and compared with its digests at the end.

Environment:
  COGWAY_DATA=.cogway      the data folder`;

async function backup(files: string[]): Promise<void> {
  if (files.length > 1) throw new SetupFault("One file at most: see npm run backup -- --help");
  const data = dataFolder(process.env["COGWAY_DATA"]);
  if (!existsSync(join(data, FOLDER))) throw new SetupFault(`${data} holds no state of Cogway; set COGWAY_DATA.`);
  const time = new Date().toISOString();
  const name = `cogway-backup-${time.replaceAll(/[-:]|\.\d+/g, "")}.tar.gz`;
  const target = fromCaller(files[0] ?? name);
  if (existsSync(target)) throw new SetupFault(`${target} exists already; name another file.`);
  // Beside what is copied, so that files need no bytes of their own.
  const copy = mkdtempSync(join(data, "backup-"));
  const part = `${target}.part`;
  const tidy = (): void => {
    rmSync(copy, { recursive: true, force: true });
    rmSync(part, { force: true });
  };
  for (const each of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(each, () => {
      tidy();
      process.exit(1);
    });
  }
  try {
    const copying = progress.begin("Copying databases");
    const { paused_ms, isRunning } = copyState(data, copy);
    copying.end(isRunning ? `Copied while the edge stood still for ${paused_ms} ms` : "Copied; Cogway does not run");
    const paths = filesBelow(copy);
    const writing = progress.begin("Writing the archive");
    const about = { release: releaseOf(), made_at: time };
    const written = await writeArchive(part, about, copy, paths, (done) =>
      writing.detail(`${done} of ${paths.length} files`),
    );
    writing.end(`Wrote ${written.files} files, ${megabytes(written.bytes)}`);
    const checking = progress.begin("Comparing it with its digests");
    await readArchive(part, null, (done) => checking.detail(`${done} of ${written.files} files`));
    checking.end("All digests are right");
    renameSync(part, target);
    progress.line(`${target}: it holds secrets, so keep it as you keep keys.`);
  } finally {
    tidy();
  }
}

/** Copies what belongs into a backup to `copy`, at one moment of a running edge. */
function copyState(data: string, copy: string): { paused_ms: number; isRunning: boolean } {
  const wanted = [
    ...filesBelow(join(data, FOLDER)).map((path) => join(FOLDER, path)),
    ...SECRETS,
    ...originFolders(data).map((folder) => join(folder, CREDENTIAL)),
  ];
  for (const folder of new Set(wanted.map((path) => dirname(join(copy, path)))))
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  const edge = new ProcessFiles(data).running("workerd");
  const began = performance.now();
  const isLate = (): boolean => performance.now() - began > PAUSE_MAX_MS;
  const goOn = edge === null ? () => {} : standStill(edge);
  try {
    // Anew: what came since the folders were made, too.
    const now = filesBelow(join(data, FOLDER)).map((path) => join(FOLDER, path));
    for (const path of new Set([...now, ...wanted])) {
      if (edge !== null && isLate()) {
        throw new SetupFault(
          `The databases are too large to be copied while the edge waits (${PAUSE_MAX_MS / 1000} s): stop Cogway, then run this again.`,
        );
      }
      copyOne(join(data, path), join(copy, path));
    }
    return { paused_ms: Math.round(performance.now() - began), isRunning: edge !== null };
  } finally {
    goOn();
  }
}

/** Stops a process where it is until the returned function is called; at the latest after the pause's bound, should this process die. */
function standStill(pid: number): () => void {
  const release = spawn("sh", ["-c", `sleep ${PAUSE_MAX_MS / 1000 + 1}; kill -CONT ${pid}`], {
    detached: true,
    stdio: "ignore",
  });
  release.unref();
  signal(pid, "SIGSTOP");
  return () => {
    signal(pid, "SIGCONT");
    if (release.pid !== undefined) signal(-release.pid, "SIGKILL");
  };
}

function copyOne(from: string, to: string): void {
  if (!existsSync(from)) return;
  mkdirSync(dirname(to), { recursive: true, mode: 0o700 });
  if (from.includes(WRITTEN_ONCE)) linkSync(from, to);
  else copyFileSync(from, to, constants.COPYFILE_FICLONE);
}

/** Files below a folder, without the index that SQLite makes anew for each log of changes. */
function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.endsWith("-shm"))
    .map((entry) => join(entry.parentPath, entry.name).slice(resolve(folder).length + 1))
    .toSorted();
}

/** The first origin's folder is the data folder itself. */
function originFolders(data: string): string[] {
  return ["", ...readdirSync(data).filter((name) => /^origin-\d+$/.test(name))];
}

function releaseOf(): string {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  return version;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

await fileCommand(HELP, backup);
