import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { FileRefSchema } from "../schema/origin-protocol.ts";
import { safeFileName } from "./output-spool.ts";
import { TestOrigin } from "./testing/harness.ts";

describe("files that a model makes", () => {
  let origin: TestOrigin;
  beforeAll(async () => {
    origin = await TestOrigin.start(["files", "file-nested", "file-list", "file-iterator"]);
  }, 240_000);
  afterEach(() => origin.releaseInstances());
  afterAll(() => origin.stop());

  const bytesOf = (id: string, n: number): string =>
    origin.edge.files.find((file) => file.path.startsWith(`/origin/v1/outputs/${id}/1/${n}/`))?.bytes.toString() ?? "";

  it("reach the edge before the event that names them, with type, size and digest", async () => {
    const instance = await origin.boot("files");
    const { id, output } = await origin.predict("files", instance, { size: 3_000_000 });
    const file = FileRefSchema.parse(output).$cogway_file;
    expect(file).toMatchObject({ n: 0, name: "out.png", content_type: "image/png", size_bytes: 3_000_000 });
    expect(bytesOf(id, 0)).toHaveLength(3_000_000);
  });

  it("keep their names as one plain path segment", async () => {
    const instance = await origin.boot("files");
    const { output } = await origin.predict("files", instance, { name: "a b \u00e9.txt" });
    expect(FileRefSchema.parse(output).$cogway_file.name).toBe("a b é.txt");
  });

  it("are found inside structured outputs, which coglet gives as data URIs, in the model's order; other texts stay", async () => {
    const instance = await origin.boot("file-nested");
    const { id, output } = await origin.predict("file-nested", instance, {});
    expect(output).toMatchObject({
      caption: "data: is not a file",
      n: 2,
      pictures: [{ $cogway_file: { n: 0 } }, { $cogway_file: { n: 1 } }],
    });
    expect([bytesOf(id, 0), bytesOf(id, 1)]).toEqual(["p", "q"]);
  });

  it("of a list keep the list's order, whatever their sizes", async () => {
    const instance = await origin.boot("file-list");
    const { id, output } = await origin.predict("file-list", instance, { count: 4 });
    expect(output).toHaveLength(4);
    expect([0, 1, 2, 3].map((n) => bytesOf(id, n)[0])).toEqual(["0", "1", "2", "3"]);
  });

  it("of an iterator are an event each, equal names apart", async () => {
    const instance = await origin.boot("file-iterator");
    const { id, events } = await origin.predict("file-iterator", instance, { count: 3 });
    expect(events.filter((event) => event.type === "output" && event.mode === "append")).toHaveLength(3);
    expect([0, 1, 2].map((n) => bytesOf(id, n))).toEqual(["frame 0", "frame 1", "frame 2"]);
  });

  it("wait for an edge that is away, and the end waits with them", async () => {
    const instance = await origin.boot("files");
    origin.edge.isAway = true;
    const id = await origin.send("files", instance, {});
    await origin.edge.until(() => origin.origin.journal.hasEvents(), "its start");
    origin.edge.isAway = false;
    expect(await origin.untilFinished(id)).toMatchObject({ status: "succeeded" });
    expect(bytesOf(id, 0)).toBe("1111111111");
  });

  it("are taken only from an attempt that runs on the instance of that secret path", async () => {
    const instance = await origin.boot("files");
    await origin.predict("files", instance, {});
    const { InstanceFiles } = await import("./instance-files.ts");
    const { OutputSpool } = await import("./output-spool.ts");
    const files = new InstanceFiles(new OutputSpool(`${origin.dataDir}/spool-of-test`));
    await files.listen("127.0.0.1", 0);
    files.open("running");
    const put = (url: string, id: string): Promise<Response> =>
      fetch(url, { method: "PUT", body: "x", headers: { "x-prediction-id": id } });
    expect((await put(`${files.uploadUrl}/a.png`, "running")).status).toBe(201);
    expect((await put(`${files.uploadUrl}/a.png`, "another")).status).toBe(403);
    expect((await put(`${new URL(files.uploadUrl).origin}/guess/outputs/a.png`, "running")).status).toBe(404);
    await files.stop();
  });
});

describe("a safe file name", () => {
  it.each([
    ["../../etc/passwd", "passwd"],
    ["..\\..\\boot.ini", "boot.ini"],
    ["..", "output"],
    ["", "output"],
    ["a\r\nSet-Cookie: x.png", "aSet-Cookie_ x.png"],
    ["\u202egnp.exe", "gnp.exe"],
    [".hidden", "hidden"],
    ["out.png", "out.png"],
  ])("of %j is %j", (name, safe) => {
    expect(safeFileName(name)).toBe(safe);
  });

  it("keeps the extension within 255 bytes", () => {
    const name = safeFileName(`${"é".repeat(400)}.png`);
    expect(Buffer.byteLength(name)).toBeLessThanOrEqual(255);
    expect(name.endsWith(".png")).toBe(true);
  });
});
