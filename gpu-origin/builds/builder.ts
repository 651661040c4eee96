/**
 * Makes model folders into versions that start: one contract, one builder for each driver. `process` makes Python environments, `docker` images. What they
 * make is described by {@link PreparedVersion}, which names nothing of one host: an origin that was given it, and the source, makes the same again.
 */
import type { BuildStage } from "../../schema/packages.ts";
import type { SourceFile } from "../packaging/source.ts";
import type { PreparedVersion } from "../prepared-version.ts";

/** Ways to start an instance of a version. */
export type Launch =
  | { kind: "process"; cwd: string /** of the Python environment */; binDir: string }
  /** the image's working folder is /src; `prefix` stands before the server's command, as a trainer's does that makes a folder of its own first */
  | { kind: "image" /** as the engine knows it */; image: string; mounts: Mount[]; prefix?: string[] };

/** Read-only for the instance. */
export interface Mount {
  /** a file or a folder of the host */
  source: string;
  /** absolute, in the container */
  target: string;
}

/** A source that lies complete on disk, below the folder of its version. Never written to: large files are shared with other versions. */
export interface SourceFolder {
  /** of the version; computed from the files */
  id: string;
  /** of the model, for progress lines */
  name: string;
  folder: string;
  files: SourceFile[];
}

export interface BuildRequest {
  source: SourceFolder;
  /** code of the operator, as against anybody's */
  is_trusted: boolean;
  signal: AbortSignal;
  time_limit_ms: number;
  disk_limit_bytes: number;
  onStage(stage: BuildStage): void;
  /** one line of the build's log, without its end */
  onLine(line: string): void;
}

export type BuildResult =
  | { kind: "built"; version: PreparedVersion /** advice, one sentence each */; warnings: string[] }
  /** one message that says what to change; `code` is stable, such as `build.requirements` */
  | { kind: "failed"; code: string; detail: string }
  | { kind: "canceled" };

export interface LaunchRequest {
  instance_id: string;
  /** a trainer gets a folder of its own: what it writes there is of one training */
  mode: "predict" | "train";
  /** code of the operator; counts where it has to be built again */
  is_trusted?: boolean;
  /** one line each; the newest is the reason of the state `boot` */
  onProgress(detail: string): void;
  signal: AbortSignal;
}

export type LaunchResult =
  /** `release` is called once, when the instance has ended or was never started */
  { kind: "ready"; launch: Launch; release: () => void } | { kind: "failed"; detail: string };

export interface Builder {
  readonly kind: "process" | "docker";
  /** Makes environment or image, and the schema. The version is not saved: its caller does that. Ends soon after `signal`, leaving nothing half made. */
  build(request: BuildRequest): Promise<BuildResult>;
  /**
   * Makes a prepared version startable here: at once where everything is there, else as long as making it again takes. Two that ask for the same version
   * share the work. A version of an image is pulled.
   */
  launch(version: PreparedVersion, request: LaunchRequest): Promise<LaunchResult>;
}
