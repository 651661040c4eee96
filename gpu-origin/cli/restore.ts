/** `npm run restore`: makes a data folder out of an archive of `npm run backup`. The folder appears whole or not at all. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmdirSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { readArchive } from "./backup-archive.ts";
import { fileCommand } from "./file-command.ts";
import { progress } from "./progress.ts";
import { dataFolder, fromCaller, SetupFault } from "./settings.ts";

const HELP = `npm run restore -- FILE

Makes the data folder anew out of FILE, an archive of npm run backup. The folder must not exist, or be empty. Then npm start goes on from there: what waited
runs, what ran is as if its host had died, and data whose retention has passed meanwhile goes. Use COGWAY_PUBLIC_URL and ports as before, so that
addresses that were handed out still work. Do not run it beside the system that it was copied from: both would send the same webhooks.

Environment:
  COGWAY_DATA=.cogway      the data folder that is made`;

async function restore([given, ...more]: string[]): Promise<void> {
  if (given === undefined || more.length > 0) throw new SetupFault("Name one archive: npm run restore -- FILE");
  const archive = fromCaller(given);
  if (!existsSync(archive)) throw new SetupFault(`There is no file ${archive}.`);
  const data = dataFolder(process.env["COGWAY_DATA"]);
  if (existsSync(data) && readdirSync(data).length > 0) {
    throw new SetupFault(
      `${data} is not empty: nothing is written over. Move it away, or set COGWAY_DATA to another folder.`,
    );
  }
  mkdirSync(dirname(data), { recursive: true });
  const part = mkdtempSync(join(dirname(data), `.${basename(data)}-restoring-`));
  try {
    const step = progress.begin("Restoring");
    const { about, files, bytes } = await readArchive(archive, part, (done) => step.detail(`${done} files`));
    if (existsSync(data)) rmdirSync(data);
    renameSync(part, data);
    step.end(
      `Restored ${files} files, ${(bytes / 1e6).toFixed(1)} MB, as of ${about.made_at} (release ${about.release})`,
    );
    progress.line(`${data} is ready: npm start`);
  } finally {
    rmSync(part, { recursive: true, force: true });
  }
}

await fileCommand(HELP, restore);
