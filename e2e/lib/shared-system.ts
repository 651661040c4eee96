/** The system that global-setup.ts started. Scenarios that use it leave it as it was. */
import { inject } from "vitest";
import { Api } from "./api.ts";

/** As the operator, who owns the models. */
export function operator(): Api {
  const { url, token } = inject("system");
  return new Api(url, token);
}

let count = 0;

/** As an account of its own, so that lists and limits are this scenario's alone. */
export function newCaller(purpose: string): Promise<Api> {
  count += 1;
  return operator().newAccount(`${purpose}-${Date.now().toString(36)}-${count}`);
}
