/** `npm start`. bootstrap.mjs runs this on Node 24; nothing but arguments and signals is here. */
import { parseArgs } from "node:util";
import { Launcher } from "./launcher.ts";
import { progress } from "./progress.ts";
import { originCount, readSettings, SetupFault } from "./settings.ts";

const HELP = `npm start [-- --no-wait] [--origins N]

Starts Cogway: the edge in workerd, gpu-origin with the models, and a first prediction. It stays up; Ctrl-C or SIGTERM drains and ends everything.

  --no-wait    do not wait for the first prediction
  --origins N  start N (1 to 8) gpu-origins that divide this host, each on the next port and with a folder of its own
  --help       this text

Environment:
  COGWAY_PORT=8787         where the edge listens, on loopback
  COGWAY_ORIGIN_PORT=8788  where gpu-origin listens, on loopback; further ones on the ports behind it
  COGWAY_DATA=.cogway      all local state; another folder and other ports make a second copy
  COGWAY_CACHE             rebuildable things, such as Python environments; default $COGWAY_DATA/cache
  COGWAY_MODELS            comma list of example names or folders of Cog models; default all examples
  COGWAY_TOKEN             the first account's token; default one made once and kept in $COGWAY_DATA/token
  COGWAY_PUBLIC_URL        what URLs in answers start with; default http://127.0.0.1:$COGWAY_PORT
  COGWAY_TLS=1             https with a local certificate that is made once
  COGWAY_ALLOW_PRIVATE_URLS  CIDR list of private addresses that inputs and webhooks may use
  COGWAY_RETENTION=1h      how long a prediction's data is kept after its end`;

async function main(): Promise<void> {
  const options = {
    "no-wait": { type: "boolean" },
    origins: { type: "string", default: "1" },
    help: { type: "boolean", short: "h" },
  } as const;
  let launcher: Launcher | null = null;
  try {
    const { values } = parseArgs({ options, args: process.argv.slice(2) });
    if (values.help) return progress.line(HELP);
    const started = new Launcher(readSettings(process.env, originCount(values.origins)));
    launcher = started;
    const end = (): void => void started.end().then(() => process.exit(process.exitCode ?? 0));
    for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(name, end);
    // The process that started this one was killed: nobody else would end it.
    process.on("disconnect", end);
    await Promise.race([started.start(!values["no-wait"]), started.faulted]);
    await started.faulted;
  } catch (error) {
    if (launcher?.isEnding) return;
    process.exitCode = 1;
    progress.fault(isForPeople(error) ? error.message : String(error instanceof Error ? error.stack : error));
    await launcher?.end();
    process.exit();
  }
}

function isForPeople(error: unknown): error is Error {
  return (
    error instanceof SetupFault ||
    (error instanceof TypeError && "code" in error && String(error.code).startsWith("ERR_PARSE_ARGS"))
  );
}

await main();
