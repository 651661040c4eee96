/** Bindings that only the local launcher gives: they are not in wrangler.toml, so the generated types do not know them. */
interface Env {
  /** goes to origins on loopback, which the global fetch must never reach */
  LOCAL_ORIGIN?: Fetcher;
}
declare namespace Cloudflare {
  interface Env {
    LOCAL_ORIGIN?: Fetcher;
  }
}
