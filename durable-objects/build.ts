/** One build: its state, its log and who reads it. */
import { DurableObject } from "cloudflare:workers";

export class BuildObject extends DurableObject<Env> {}
