/** The OCI distribution API (`/v2/`), with its token flow. Errors are OCI's, not problem documents. */
import { newRouter } from "./router.ts";

export const registry = newRouter();
