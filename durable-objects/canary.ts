/** Runs the example of each public version once a day on idle capacity, and knows which ones fail. */
import { DurableObject } from "cloudflare:workers";

export class CanaryObject extends DurableObject<Env> {}
