/** R2 in memory, over the same network: a call that fails may have been carried out. */
import type { Network, Sender } from "./network.ts";

export class Bucket {
  readonly objects = new Map<string, string>();
  readonly #network: Network;

  constructor(network: Network) {
    this.#network = network;
  }

  /** The binding of `caller`. */
  bindingOf(caller: Sender): unknown {
    const act = <T>(label: string, run: () => T): Promise<T> => this.#act(caller, label, run);
    const body = (key: string): unknown => {
      const text = this.objects.get(key);
      if (text === undefined) return null;
      return { key, size: text.length, text: async () => text, json: async () => JSON.parse(text) };
    };
    return {
      put: (key: string, value: string | Uint8Array) =>
        act(`R2 put ${key}`, () => {
          this.objects.set(key, typeof value === "string" ? value : Buffer.from(value).toString());
          return { key };
        }),
      get: (key: string) => act(`R2 get ${key}`, () => body(key)),
      head: (key: string) => act(`R2 head ${key}`, () => (this.objects.has(key) ? { key } : null)),
      delete: (keys: string | string[]) =>
        act(`R2 delete ${keys}`, () => {
          for (const key of [keys].flat()) this.objects.delete(key);
        }),
      list: ({ prefix = "", limit = 1_000 }: { prefix?: string; limit?: number }) =>
        act(`R2 list ${prefix}`, () => {
          const keys = [...this.objects.keys()].filter((key) => key.startsWith(prefix)).sort();
          return { objects: keys.slice(0, limit).map((key) => ({ key })), truncated: keys.length > limit };
        }),
    };
  }

  async #act<T>(caller: Sender, label: string, run: () => T): Promise<T> {
    let result: T | undefined;
    await this.#network.exchange({
      ...{ from: caller, label, text: "" },
      lost: this.#network.rates.storage,
      serve: (_text, reply) => {
        result = run();
        reply({ text: "" });
      },
    });
    return result as T;
  }
}
