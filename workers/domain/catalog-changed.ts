/** What else must know when models of the catalog were made, changed or deleted. Called behind every such write; it never fails its caller. */
import type { Edge } from "../env.ts";

/** `models` are owner/name. */
export function catalogChanged(_edge: Edge, _models: string[]): void {}
