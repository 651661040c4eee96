/** Reads a folder of a container's scratch space, which the engine's own copying does not reach: a program of the container writes it out as a tar. */
import type { Readable } from "node:stream";
import type Docker from "dockerode";
import { bounded } from "./docker-engine.ts";
import { ContainerOutput } from "./docker-output.ts";

/** Whatever has not come by then does not come. */
const READ_TIMEOUT_MS = 30_000;
/** Its regular files alone, by their paths below it. Every image of a model has Python, and not every one has tar. */
const PROGRAM = `
import os, sys, tarfile
root = sys.argv[1]
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
    for at, _, names in os.walk(root):
        for name in sorted(names):
            path = os.path.join(at, name)
            if os.path.isfile(path) and not os.path.islink(path):
                tar.add(path, arcname=os.path.relpath(path, root))
`;

/** A tar, whose bytes are the model's to choose; empty where there is no such folder. The stream breaks off after {@link READ_TIMEOUT_MS}. */
export async function readContainerFolder(container: Docker.Container, path: string): Promise<Readable> {
  const exec = await bounded(
    container.exec({ Cmd: ["python", "-c", PROGRAM, path], AttachStdout: true, AttachStderr: false }),
  );
  const stream = await bounded(exec.start({ Detach: false }));
  const output = new ContainerOutput();
  const timer = setTimeout(() => {
    output.destroy(new Error(`it was not read within ${READ_TIMEOUT_MS / 1000} s`));
  }, READ_TIMEOUT_MS).unref();
  stream.on("error", (error) => output.destroy(error));
  output.once("close", () => {
    clearTimeout(timer);
    stream.unpipe(output);
    if ("destroy" in stream && typeof stream.destroy === "function") stream.destroy();
  });
  return stream.pipe(output);
}
