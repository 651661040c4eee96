/** A model's image, made by hand on the base image of the tests, for tests of what runs images. */
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import type Docker from "dockerode";
import { pack } from "tar-stream";
import { DRIVER_MODEL } from "./driver-model.ts";

/** Without a user, without an entry point: what the driver adds is all there is. */
const recipe = (base: string, more: string): string => `FROM ${base}
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PATH=/opt/venv/bin:$PATH COG_PREDICT_TYPE_STUB=predict.py:Runner
RUN python3 -m venv /opt/venv && pip install --no-cache-dir cog==0.23.1 coglet==0.23.1
COPY . /src
WORKDIR /src
${more}
`;

/** Name of the image; made once for an engine, whose layers are kept. `more` are further lines of its recipe. */
export async function testImage(docker: Docker, base: string, more = ""): Promise<string> {
  const files = { ...DRIVER_MODEL, Dockerfile: recipe(base, more) };
  const tag = `cogway-driver-test:${createHash("sha256").update(JSON.stringify(files)).digest("hex").slice(0, 12)}`;
  const isThere = await docker
    .getImage(tag)
    .inspect()
    .then(
      () => true,
      () => false,
    );
  if (isThere) return tag;
  const archive = pack();
  for (const [name, content] of Object.entries(files)) archive.entry({ name }, content);
  archive.finalize();
  const build = await docker.buildImage(Readable.from(archive), { t: tag });
  await new Promise<void>((resolve, reject) => {
    docker.modem.followProgress(build, (error: Error | null, steps: { error?: string }[]) => {
      const fault = error?.message ?? steps.find((step) => step.error !== undefined)?.error;
      if (fault === undefined) resolve();
      else reject(new Error(fault));
    });
  });
  return tag;
}
