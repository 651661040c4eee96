import type { Patch } from "./loader.ts";

export interface PlantedBug {
  name: string;
  patches: Patch[];
}

export const BUGS: PlantedBug[] = [];
