/** Clients in other languages are programs that try them and print one line a check: `{"check": name, "error": null or text}`. Each is shown as a test. */
import { createInterface } from "node:readline";
import { execa } from "execa";
import { beforeAll, test } from "vitest";

const RUN_TIMEOUT_MS = 180_000;

export interface Program {
  command: string;
  args: string[];
  env: Record<string, string>;
}

interface Outcome {
  check: string;
  error: string | null;
}

/** Runs the program once, before the first of its tests. `prepare` installs what it needs. */
export function checksOf(names: string[], prepare: () => Promise<Program>): void {
  const outcomes = new Map<string, string | null>();
  let ending = "it was not run";
  beforeAll(async () => {
    const { command, args, env } = await prepare();
    const child = execa(command, args, { env, reject: false, timeout: RUN_TIMEOUT_MS, stdin: "ignore" });
    for await (const line of createInterface({ input: child.stdout })) {
      const outcome = parse(line);
      if (outcome !== null) outcomes.set(outcome.check, outcome.error);
    }
    const { exitCode, stderr } = await child;
    ending = `the program ended with ${exitCode}: ${stderr}`;
  });
  for (const name of names) {
    test(name, () => {
      const error = outcomes.get(name);
      if (error === undefined) throw new Error(`no word of it; ${ending}`);
      if (error !== null) throw new Error(error);
    });
  }
}

function parse(line: string): Outcome | null {
  try {
    return JSON.parse(line) as Outcome;
  } catch {
    return null;
  }
}
