/** What the product takes from `cloudflare:workers`. */
export class DurableObject {
  readonly ctx: unknown;
  readonly env: unknown;

  constructor(ctx: unknown, env: unknown) {
    this.ctx = ctx;
    this.env = env;
  }
}

export function waitUntil(work: Promise<unknown>): void {
  work.catch(() => undefined);
}

export const env = {};
