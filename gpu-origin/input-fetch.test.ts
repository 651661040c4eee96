import { createServer, type Server } from "node:http";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { newId } from "../schema/ids.ts";
import { TestOrigin } from "./testing/harness.ts";

describe("files that a prediction reads", () => {
  let origin: TestOrigin;
  let host: Server;
  let hostUrl: string;
  beforeAll(async () => {
    host = createServer((_request, response) => response.writeHead(200, { "content-type": "image/png" }).end("12345"));
    await new Promise<void>((resolve) => host.listen(0, "127.0.0.1", resolve));
    const address = host.address();
    hostUrl = `http://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`;
    origin = await TestOrigin.start(["inputs"], { allowPrivateUrls: ["127.0.0.1/32"] });
  }, 240_000);
  afterEach(() => origin.releaseInstances());
  afterAll(async () => {
    host.close();
    await origin.stop();
  });

  it("are downloaded by the origin and keep their extension; one is made from the type where there is none", async () => {
    const instance = await origin.boot("inputs");
    const input = {
      file: `${hostUrl}/a/photo.jpeg?size=1`,
      files: [`${hostUrl}/plain`, `${hostUrl}/b.webp`],
      note: null,
    };
    const { output, error } = await origin.predict("inputs", instance, input);
    expect(error).toBeUndefined();
    expect(output).toEqual({
      files: [
        { suffix: ".jpeg", size: 5 },
        { suffix: ".png", size: 5 },
        { suffix: ".webp", size: 5 },
      ],
      note: null,
    });
  });

  it("may be data URIs, small and large", async () => {
    const instance = await origin.boot("inputs");
    const large = `data:image/png;base64,${Buffer.alloc(3_000_000).toString("base64")}`;
    const { output } = await origin.predict("inputs", instance, {
      file: large,
      files: ["data:text/plain;base64,aGk="],
    });
    expect(output).toMatchObject({ files: [{ suffix: ".png", size: 3_000_000 }, { size: 2 }] });
  });

  it.each([
    ["http://169.254.169.254/latest/meta-data", "not a public address"],
    ["http://[::1]/", "not a public address"],
    ["/etc/hostname", "only http"],
    ["file:///etc/hostname", "only http"],
  ])("are refused before the model starts: %s", async (file, reason) => {
    const instance = await origin.boot("inputs");
    const outcome = await origin.predict("inputs", instance, { file });
    expect(outcome).toMatchObject({
      status: "failed",
      code: "input.download_failed",
      error: expect.stringContaining(reason),
    });
    expect(outcome.events).toHaveLength(1);
  });

  it("may be outputs of this Cogway, which the origin reads from the edge itself", async () => {
    origin.edge.inputs.set("/outputs/abc/0/a.txt?signature=1", "from the edge");
    const instance = await origin.boot("inputs");
    const file = `${origin.edge.url}/outputs/abc/0/a.txt?signature=1`;
    expect(await origin.predict("inputs", instance, { file })).toMatchObject({
      output: { files: [{ suffix: ".txt", size: 13 }] },
    });
  });

  it("come with an input that is itself too large for the message", async () => {
    const instance = await origin.boot("inputs");
    const id = newId(26);
    origin.edge.inputs.set(`/origin/v1/inputs/${id}`, { note: "x".repeat(300_000), file: null });
    await origin.edge.call("PUT", `/v1/attempts/${id}/1`, {
      protocol: 1,
      prediction_id: id,
      attempt: 1,
      instance_id: instance,
      version_id: origin.version("inputs").id,
      account_id: "a",
      input_ref: `/origin/v1/inputs/${id}`,
    });
    await origin.untilFinished(id);
    expect(origin.outcome(id).output).toMatchObject({ files: [], note: "x".repeat(300_000) });
  });
});
