/** Programs in Go that tests drive: built once, into the cache. Where there is no Go one line says what is therefore not run. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { mustRun, run } from "./run.ts";
import { CACHE } from "./system.ts";

const GO_PLACES = ["/usr/local/go/bin", "/usr/lib/go/bin"];
async function findGo(): Promise<string | null> {
  for (const place of ["go", ...GO_PLACES.map((each) => join(each, "go"))]) {
    if ((await run(place, ["version"])).code === 0) return place;
  }
  return null;
}

/** The path of the program `<name>/<version>` in the cache, built where it is missing; null where there is no Go. `what`: what then is not run. */
export async function goProgram(
  what: string,
  {
    name,
    module,
    package: main = module,
    version,
    build,
  }: { name: string; module: string; package?: string; version: string; build: string[] },
): Promise<string | null> {
  const program = join(CACHE, name, version);
  if (existsSync(program)) return program;
  const go = await findGo();
  if (go === null) {
    process.stderr.write(`${what} not run: no Go was found\n`);
    return null;
  }
  const folder = mkdtempSync(join(tmpdir(), "cogway-go-"));
  try {
    mkdirSync(dirname(program), { recursive: true });
    writeFileSync(join(folder, "go.mod"), "module built.test\n\ngo 1.21\n");
    const options = { cwd: folder, env: { ...process.env, GOFLAGS: "-mod=mod" } };
    await mustRun(go, ["get", `${main}@${version}`], options);
    await mustRun(go, [...build, "-o", program, main], options);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return program;
}
