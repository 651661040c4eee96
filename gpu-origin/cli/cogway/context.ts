/** What every command is given. */
import { Http } from "../../../schema/client/http.ts";
import { Cogway } from "../../../schema/client/index.ts";
import { type Connection, connectionOf } from "./connection.ts";
import { CliFault } from "./fault.ts";
import type { Interrupts } from "./interrupts.ts";
import type { Terminal } from "./terminal.ts";

export class Context {
  readonly terminal: Terminal;
  readonly env: NodeJS.ProcessEnv;
  readonly interrupts: Interrupts;
  #connection: Connection | null = null;

  constructor(terminal: Terminal, env: NodeJS.ProcessEnv, interrupts: Interrupts) {
    this.terminal = terminal;
    this.env = env;
    this.interrupts = interrupts;
  }

  /** Looked up when a command needs it: `check` works without a login. */
  get connection(): Connection {
    this.#connection ??= connectionOf(this.env);
    return this.#connection;
  }

  /** Where the command went so far, for its message of failure. */
  get url(): string | null {
    return this.#connection?.url ?? null;
  }

  get http(): Http {
    return new Http({ baseUrl: this.connection.url, token: this.connection.token });
  }

  get client(): Cogway {
    return new Cogway({ baseUrl: this.connection.url, token: this.connection.token });
  }
}

export interface ModelName {
  owner: string;
  name: string;
}

const MODEL_NAME = /^([^/:\s]+)\/([^/:\s]+)$/;

export function modelName(text: string): ModelName {
  const match = MODEL_NAME.exec(text);
  if (match === null) throw new CliFault(`"${text}" names no model; write owner/name, such as ada/hello.`);
  return { owner: match[1] ?? "", name: match[2] ?? "" };
}

export function modelPath({ owner, name }: ModelName): string {
  return `/v1/models/${encodeURIComponent(owner)}/${encodeURIComponent(name)}`;
}
