/** The community's client for Go. */
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import { execa } from "execa";
import { checksOf } from "./checks.ts";
import { CLIENTS_CACHE, type Stage } from "./stage.ts";

const FOLDER = join(import.meta.dirname, "go");
/** The last is where Go's own installer puts it, often without a word in PATH. */
const FOLDERS = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/local/go/bin"];
const BUILD_TIMEOUT_MS = 240_000;

/** Null where none is installed. */
export function findGo(): string | null {
  return (
    FOLDERS.map((folder) => join(folder, "go")).find(
      (path) => statSync(path, { throwIfNoEntry: false })?.isFile() === true,
    ) ?? null
  );
}

export function goClient(go: string, stage: () => Stage): void {
  const checks = [...readFileSync(join(FOLDER, "main.go"), "utf8").matchAll(/^\t+\{"([^"]+)", check/gm)];
  checksOf(
    checks.map(([, name = ""]) => name),
    async () => {
      const command = await build(go);
      const account = await stage().account("go");
      return { command, args: [], env: { ...stage().environment(account), ACCOUNT: "go" } };
    },
  );
}

/** The program; its modules and what was compiled stay in the cache. */
async function build(go: string): Promise<string> {
  const cache = join(CLIENTS_CACHE, "go");
  mkdirSync(cache, { recursive: true });
  const program = join(cache, "client");
  await execa(go, ["build", "-o", program, "."], {
    cwd: FOLDER,
    env: {
      GOCACHE: join(cache, "build"),
      GOMODCACHE: join(cache, "modules"),
      // Modules of the cache are read-only otherwise, and cannot be removed with it.
      GOFLAGS: "-modcacherw",
      GOTOOLCHAIN: "local",
    },
    timeout: BUILD_TIMEOUT_MS,
  });
  return program;
}
