/** Makes a version of a source that lies on disk: the builder's part, the weights that cog.yaml names, and the document that says it is there. */
import type { PackageRef } from "../../schema/packages.ts";
import { readModel } from "../packaging/check-model.ts";
import type { Builder, BuildRequest, BuildResult } from "./builder.ts";
import { DISK_FULL, isDiskFull } from "./disk.ts";
import { placeWeights, planWeights, WeightsFault, type WeightsParts } from "./weights.ts";

export class VersionMaker {
  readonly #builder: Builder;
  readonly #parts: WeightsParts;

  constructor(builder: Builder, parts: WeightsParts) {
    this.#builder = builder;
    this.#parts = parts;
  }

  /**
   * At once for a version that was made here before. `from` is where the files can be fetched again. What is half made is removed, unless another build of
   * the same source is at it.
   */
  async make(request: BuildRequest, from: PackageRef | null): Promise<BuildResult> {
    const { versions } = this.#parts;
    const { source, signal } = request;
    const release = versions.hold(source.id);
    try {
      // Settings of cogway.yaml are part of the content, so a known id has them as they were; only its name may be another.
      const known = versions.get(source.id);
      if (known !== null) return { kind: "built", version: known, warnings: [] };
      const built = await this.#builder.build(request);
      if (built.kind !== "built") return built;
      const { cog } = readModel(source.folder);
      const options = { signal, onLine: request.onLine, bytes_max: request.disk_limit_bytes };
      const weights = await planWeights(cog, source, this.#parts, options);
      const version = { ...built.version, weights, package: from };
      await placeWeights(version, this.#parts, options);
      versions.save(version);
      return { ...built, version };
    } catch (error) {
      if (signal.aborted) return { kind: "canceled" };
      if (error instanceof WeightsFault) return { kind: "failed", code: "build.weights", detail: error.message };
      if (isDiskFull(error)) return { kind: "failed", code: "build.disk_full", detail: DISK_FULL };
      throw error;
    } finally {
      release();
      this.discard(source.id);
    }
  }

  /** Removes what is half made of a version that nobody works at. */
  discard(id: string): void {
    this.#parts.versions.discard(id);
  }
}
