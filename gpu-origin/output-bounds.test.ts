/** What a model may make of files and logs, whatever it tries: with real coglet, and past coglet at its instance's file server. */
import { readdirSync } from "node:fs";
import { request } from "node:http";
import { join, sep } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { newId } from "../schema/ids.ts";
import { FileRefSchema } from "../schema/origin-protocol.ts";
import { InstanceFiles } from "./instance-files.ts";
import { OutputSpool, safeFileName } from "./output-spool.ts";
import { type Outcome, TestOrigin, temporaryFolder } from "./testing/harness.ts";

const MiB = 1024 ** 2;
const BOUNDS = { file_bytes: 4 * MiB, attempt_files: 20, attempt_bytes: 12 * MiB, free_bytes: 0 };

describe("a model's files", () => {
  let origin: TestOrigin;
  let instance: string;
  beforeAll(async () => {
    origin = await TestOrigin.start(["hostile-files"], { outputBounds: BOUNDS });
    instance = await origin.boot("hostile-files");
  }, 240_000);
  afterAll(() => origin.stop());

  const run = async (input: Record<string, unknown>): Promise<Outcome> => {
    const id = newId(26);
    await origin.send("hostile-files", instance, { prediction: `${id}a1`, ...input }, { id });
    await origin.untilFinished(id);
    return origin.outcome(id);
  };
  const spoolEmpties = (): Promise<void> =>
    vi.waitFor(() => expect(readdirSync(join(origin.dataDir, "spool/outputs"))).toEqual([]));
  const content = (id: string): string =>
    origin.edge.files.find(({ path }) => path.startsWith(`/origin/v1/outputs/${id}/1/0/`))?.bytes.toString() ?? "";

  it("larger than the bound end the prediction in words that say so, and nothing of them stays", async () => {
    const { status, error, code, output } = await run({ what: "sparse", size: 5 * MiB });
    expect({ status, error, code, output }).toEqual({
      status: "failed",
      error: "The output file out.bin is larger than 4 MiB.",
      code: "output.too_large",
      output: null,
    });
    await spoolEmpties();
    expect(await run({})).toMatchObject({ status: "succeeded" });
  });

  it.each(["missing", "folder"])("that are none (%s) fail the prediction instead of giving nothing", async (what) => {
    const { status, error, code } = await run({ what });
    expect({ status, error, code }).toEqual({
      status: "failed",
      error: "The model returned a path at which there is no file.",
      code: "output.missing",
    });
  });

  it("are bounded in number, also past coglet, and go with the prediction", async () => {
    const { id, status } = await run({ what: "uploads", count: 40 });
    expect(status).toBe("failed");
    expect(content(id)).toBe("");
    await spoolEmpties();
  });

  it("are bounded together, also past coglet", async () => {
    const { id } = await run({ what: "uploads", count: 5, size: 4 * MiB - 8 });
    const answers = content(id).split(" ");
    expect(answers.slice(0, 3)).toEqual(["201", "201", "201"]);
    expect(answers.slice(3).every((answer) => answer === "413" || answer === "0")).toBe(true);
    await spoolEmpties();
  });

  it.each(["a\nb", "%2e%2e%2fetc%2fpasswd", "x?y#z", ".bashrc", `${"long".repeat(60)}.png`, "\u202egnp.exe"])(
    "have plain names: %j",
    async (name) => {
      const { status, output } = await run({ what: "named", prediction: name });
      expect(status).toBe("succeeded");
      const shown = FileRefSchema.parse(output).$cogway_file.name;
      expect(shown).toBe(safeFileName(shown));
      expect(Buffer.byteLength(shown)).toBeLessThanOrEqual(255);
    },
  );

  it("whose name leads coglet out of the upload's path are refused", async () => {
    expect(await run({ what: "named", prediction: "..\\..\\boot.ini" })).toMatchObject({
      status: "failed",
      output: null,
    });
    await spoolEmpties();
  });

  it("and metrics and words that are too large for one event end the prediction all the same", async () => {
    expect(await run({ what: "metric", size: 5 * MiB })).toMatchObject({
      status: "failed",
      code: "output.too_large",
      metrics: {},
    });
    const { status, error, code } = await run({ what: "error", size: 5 * MiB });
    expect([status, code, error?.length]).toEqual(["failed", undefined, 16_384]);
  });

  it("and logs of a flood are cut; memory and disk stay as they were, and the next prediction runs", async () => {
    const before = process.memoryUsage().rss;
    const { logs } = await run({ what: "flood", count: 200, size: 32 * MiB });
    expect(logs.length).toBeLessThan(1.1 * MiB);
    expect(process.memoryUsage().rss - before).toBeLessThan(400 * MiB);
    expect(await run({})).toMatchObject({ status: "succeeded" });
  }, 120_000);
});

describe("the file server of an instance", () => {
  const folder = temporaryFolder();
  afterAll(() => folder.remove());

  /** Announces `length` bytes, or none, and sends `sent` of them; status of the answer, 0 where the connection is closed. */
  function put(url: string, sent: number, length: number | null): Promise<number> {
    return new Promise((resolve) => {
      const headers = { "x-prediction-id": "running", ...(length === null ? {} : { "content-length": length }) };
      const upload = request(`${url}/a.bin`, { method: "PUT", headers }, (answer) => {
        answer.resume();
        resolve(answer.statusCode ?? 0);
        upload.destroy();
      });
      upload.once("error", () => resolve(0));
      upload.write(Buffer.alloc(sent));
      if (length === null || sent === length) upload.end();
    });
  }

  async function serving(bounds: Partial<typeof BOUNDS>): Promise<InstanceFiles> {
    const files = new InstanceFiles(new OutputSpool(join(folder.path, newId(8)), undefined, { ...BOUNDS, ...bounds }));
    await files.listen("127.0.0.1", 0);
    files.open("running");
    return files;
  }

  it("refuses 10 GB by their announcement, and as much without one as soon as it is too much", async () => {
    const files = await serving({});
    expect(await put(files.uploadUrl, 1, 10 * 1024 ** 3)).toBe(413);
    expect([413, 0]).toContain(await put(files.uploadUrl, 5 * MiB, null));
    expect(files.refusalOf("running")).toMatchObject({ code: "output.too_large" });
    expect(files.close("running")).toEqual([]);
    await files.stop();
  });

  it("refuses where the disk has no more room than the origin needs itself", async () => {
    const files = await serving({ free_bytes: 2 ** 60 });
    expect(await put(files.uploadUrl, 1, 1)).toBe(507);
    expect(files.refusalOf("running")?.message).toBe(
      "The output file a.bin could not be kept: the origin's disk is full.",
    );
    await files.stop();
  });
});

describe("a safe file name", () => {
  const root = `${sep}spool`;
  it("stays in its folder, and is the same when made safe again, whatever the text was", () => {
    const pieces = fc.constantFrom(
      "..",
      "/",
      "\\",
      "\0",
      "%2f",
      "\r\n",
      "a",
      ".",
      " ",
      "\u202e",
      "\ud800",
      "é",
      "://",
      "?",
      "#",
    );
    const texts = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.array(pieces).map((parts) => parts.join("")),
    );
    fc.assert(
      fc.property(texts, (text) => {
        const name = safeFileName(text);
        expect(join(root, name)).toBe(`${root}${sep}${name}`);
        expect(new URL(encodeURIComponent(name), "http://edge/outputs/").pathname).toBe(
          `/outputs/${encodeURIComponent(name)}`,
        );
        expect(Buffer.byteLength(name)).toBeLessThanOrEqual(255);
        expect(safeFileName(name)).toBe(name);
      }),
      { numRuns: 2_000 },
    );
  });
});
