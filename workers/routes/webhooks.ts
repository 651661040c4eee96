/** Webhook secrets, the log of deliveries, replays and test-sends. */
import { newRouter } from "./router.ts";

export const webhooks = newRouter();
