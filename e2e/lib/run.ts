/** A program that is run to its end, with what it said. */
import { execFile } from "node:child_process";

/** Of any program: builds that come over the network are the longest. */
export const RUN_TIMEOUT_MS = 280_000;
const OUTPUT_BYTES_MAX = 64 * 1024 ** 2;

export interface Ran {
  code: number | null;
  /** stdout, then stderr */
  output: string;
}

export function run(
  command: string,
  args: string[],
  options: { env?: NodeJS.ProcessEnv; cwd?: string } = {},
): Promise<Ran> {
  const settings = { timeout: RUN_TIMEOUT_MS, maxBuffer: OUTPUT_BYTES_MAX, ...options };
  return new Promise((resolve) => {
    execFile(command, args, settings, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === "number" ? error.code : null;
      resolve({ code, output: `${stdout}${stderr}${error === null ? "" : error.message}` });
    });
  });
}

export async function mustRun(command: string, args: string[], options?: Parameters<typeof run>[2]): Promise<string> {
  const { code, output } = await run(command, args, options);
  if (code !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${code}:\n${output.slice(-4_000)}`);
  return output;
}
