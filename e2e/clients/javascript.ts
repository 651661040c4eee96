/** npm `replicate` 1.x: every method it has, and `request()` for the routes it has none for. Its webhooks, deployments and trainings are next door. */
import Replicate, { type ApiError, type FileOutput, type Page, type Prediction } from "replicate";
import { beforeAll, describe, expect, test } from "vitest";
import type { Api } from "../lib/api.ts";
import { StreamReader } from "../lib/sse.ts";
import { waitFor } from "../lib/wait.ts";
import { clientOf, NOOP, untilEnd, versionOf, WITHIN_MS } from "./javascript-lib.ts";
import { COLLECTION, PAGED_PREDICTIONS, type Protocol, type Stage } from "./stage.ts";

const OWNER = "javascript";

export function javascriptClient(protocol: Protocol, stage: () => Stage): void {
  let caller: Api;
  let replicate: Replicate;
  beforeAll(async () => {
    caller = await stage().account(OWNER);
    replicate = clientOf(caller);
  });

  describe("account and catalog", () => {
    test("account and hardware", async () => {
      expect(await replicate.accounts.current()).toMatchObject({ type: "user", username: OWNER, name: OWNER });
      const older = { Authorization: `Token ${caller.token}` };
      expect((await replicate.request("/account", { headers: older })).status).toBe(200);
      expect(await replicate.hardware.list()).toContainEqual(
        expect.objectContaining({ sku: "cpu", name: expect.any(String) }),
      );
    });

    test("models and versions: list, get, search", async () => {
      const { results } = await replicate.models.list();
      expect(results.map(({ owner, name }) => `${owner}/${name}`)).toEqual(
        expect.arrayContaining([NOOP, "cogway/tokens", "cogway/picture"]),
      );
      const id = await versionOf(replicate, "noop");
      const versions = await replicate.models.versions.list("cogway", "noop");
      expect(versions.results.map((version) => version.id)).toEqual([id]);
      const version = await replicate.models.versions.get("cogway", "noop", id);
      expect(version).toMatchObject({ id, openapi_schema: { components: { schemas: { Input: expect.any(Object) } } } });
      await waitFor("the model in search", WITHIN_MS, async () => {
        const found = await replicate.models.search("noop");
        return found.results.some(({ name }) => name === "noop") ? true : null;
      });
    });

    test("collections: list and get", async () => {
      const { results } = await replicate.collections.list();
      expect(results).toContainEqual({ name: "Plain things", slug: COLLECTION, description: "Small models" });
      const collection = await replicate.collections.get(COLLECTION);
      expect(collection.full_description).toBe("# Plain");
      expect(collection.models?.map(({ name }) => name)).toEqual(["noop", "tokens"]);
    });

    test("a model is created by a method, and read, changed, found and deleted by request()", async () => {
      const made = await replicate.models.create(OWNER, "shelf", {
        visibility: "private",
        hardware: "cpu",
        description: "a shelf",
      });
      expect(made).toMatchObject({ owner: OWNER, name: "shelf", visibility: "private", latest_version: null });
      const path = `/models/${OWNER}/shelf`;
      const changed = await replicate.request(path, { method: "PATCH", data: { readme: "# Shelf" } });
      expect(await changed.json()).toMatchObject({ name: "shelf", description: "a shelf" });
      const readme = await replicate.request(`${path}/readme`, {});
      expect(readme.headers.get("content-type")).toMatch(/^text\/plain/);
      expect(await readme.text()).toBe("# Shelf");
      const examples = await replicate.request(`${path}/examples`, {});
      expect(await examples.json()).toEqual({ previous: null, next: null, results: [] });
      const search = await replicate.request("/search", { params: { query: "tokens", limit: 5 } });
      expect(await search.json()).toMatchObject({
        query: "tokens",
        models: expect.any(Array),
        collections: expect.any(Array),
        pages: expect.any(Array),
      });
      expect((await replicate.request(path, { method: "DELETE" })).status).toBe(204);
      await expect(replicate.models.get(OWNER, "shelf")).rejects.toThrow("404");
    });
  });

  describe("predictions", () => {
    test("create: at once, and with a wait, by model, by version and by a version with its name", async () => {
      const made = await replicate.predictions.create({ model: NOOP, input: { text: "at once" } });
      expect(made).toMatchObject({ model: NOOP, source: "api", urls: { get: expect.any(String) } });
      expect(await replicate.wait(made, { interval: 50 })).toMatchObject({ status: "succeeded", output: "at once" });
      const version = await versionOf(replicate, "noop");
      for (const target of [{ model: NOOP }, { version }, { version: `${NOOP}:${version}` }, { version: NOOP }]) {
        const waited = await replicate.predictions.create({ ...target, input: { text: "hi" }, wait: true });
        expect(waited).toMatchObject({ status: "succeeded", output: "hi", model: NOOP });
      }
      const input = { count: 20, delay_ms: 100 };
      const cut = await replicate.predictions.create({ model: "cogway/tokens", input, wait: 1 });
      expect(cut).toMatchObject({ status: "starting", output: null });
      expect(await untilEnd(() => replicate.predictions.get(cut.id))).toMatchObject({
        status: "succeeded",
        metrics: expect.any(Object),
      });
    });

    test("run: waiting, polling with progress, by version, and longer than the wait", async () => {
      expect(await replicate.run(NOOP, { input: { text: "hi" } })).toBe("hi");
      expect(await replicate.run(`${NOOP}:${await versionOf(replicate, "noop")}`, { input: { text: "v" } })).toBe("v");
      const seen: string[] = [];
      const input = { count: 10, delay_ms: 100 };
      const tokens = Array.from({ length: 10 }, (_, i) => `token ${i}\n`);
      const polled = await replicate.run(
        "cogway/tokens",
        { input, wait: { mode: "poll", interval: 100 } },
        ({ status }) => seen.push(status),
      );
      expect(polled).toEqual(tokens);
      expect(seen[0]).toBe("starting");
      expect(seen.at(-1)).toBe("succeeded");
      const wait = { mode: "block", timeout: 1, interval: 100 } as const;
      expect(await replicate.run("cogway/tokens", { input: { ...input, delay_ms: 200 }, wait })).toEqual(tokens);
    });

    test("run of a model that fails throws its words", async () => {
      await expect(replicate.run("cogway/tokens", { input: { fail_at: 2 } })).rejects.toThrow(
        "Prediction failed: RuntimeError: broke in the middle",
      );
    });

    test("cancel: one that runs, and one that has ended", async () => {
      const input = { count: 1_000, delay_ms: 100 };
      const { id } = await replicate.predictions.create({ model: "cogway/tokens", input });
      await waitFor("it runs", WITHIN_MS, async () =>
        (await replicate.predictions.get(id)).status === "processing" ? true : null,
      );
      expect(await replicate.predictions.cancel(id)).toMatchObject({ id, status: "canceled" });
      const ended = await replicate.predictions.create({ model: NOOP, input: {}, wait: true });
      expect(await replicate.predictions.cancel(ended.id)).toMatchObject({ status: "succeeded", output: "hello" });
    });

    test("an aborted signal cancels what run() waits for", async () => {
      const controller = new AbortController();
      let id = "";
      await replicate.run(
        "cogway/tokens",
        { input: { count: 1_000, delay_ms: 100 }, wait: { mode: "poll", interval: 50 }, signal: controller.signal },
        (prediction) => {
          id = prediction.id;
          if (prediction.status === "processing") controller.abort();
        },
      );
      expect((await replicate.predictions.get(id)).status).toBe("canceled");
    });

    test("lists go on over pages, newest first, each prediction once", async () => {
      const client = clientOf(stage().pager);
      const pages: Prediction[][] = [];
      for await (const page of client.paginate(client.predictions.list)) pages.push(page);
      expect(pages.map((page) => page.length)).toEqual([100, 100, PAGED_PREDICTIONS - 200]);
      const all = pages.flat();
      expect(new Set(all.map(({ id }) => id)).size).toBe(PAGED_PREDICTIONS);
      const times = all.map(({ created_at }) => Date.parse(created_at));
      expect(times).toEqual(times.toSorted((a, b) => b - a));
      const read = async (url = ""): Promise<Page<Prediction>> =>
        (await (await client.request(url, {})).json()) as Page<Prediction>;
      const first = await client.predictions.list();
      const second = await read(first.next);
      expect((await read(second.previous)).results).toEqual(first.results);
    });
  });

  describe("streams", () => {
    test("text comes piece by piece, with an end", async () => {
      const events: { event: string; data: string }[] = [];
      const input = { text: "a b\n\nc", delay_ms: 10 };
      for await (const { event, data } of replicate.stream("cogway/tokens", { input })) events.push({ event, data });
      const output = events.filter(({ event }) => event === "output").map(({ data }) => data);
      expect(output).toEqual(["a", " ", "b", "\n", "\n", "c"]);
      expect(events.at(-1)).toEqual({ event: "done", data: "{}" });
    });

    test("a stream that was left goes on after its last event", async () => {
      const input = { count: 12, delay_ms: 50 };
      const read: string[] = [];
      let lastEventId = "";
      for await (const { event, data, id = "" } of replicate.stream("cogway/tokens", { input })) {
        lastEventId = id;
        if (event === "output" && read.push(data) === 4) break;
      }
      const { results } = await replicate.predictions.list();
      const rest = await StreamReader.readAll(results[0]?.urls.stream ?? "", { lastEventId });
      expect([...read, ...rest.outputs()]).toEqual(Array.from({ length: 12 }, (_, i) => `token ${i}\n`));
      expect(rest.events.at(-1)).toMatchObject({ event: "done", data: "{}" });
    });

    test("a model that fails makes the stream throw", async () => {
      const read = async (): Promise<void> => {
        for await (const _ of replicate.stream("cogway/tokens", { input: { fail_at: 1 } }));
      };
      await expect(read()).rejects.toThrow("broke in the middle");
    });

    test("files come as they are made, and can be read", async () => {
      const read: string[] = [];
      for await (const { event, data } of replicate.stream("cogway/file-iterator", { input: { count: 2 } })) {
        if (event !== "output") continue;
        const file = data as unknown as FileOutput;
        expect(file).toBeInstanceOf(ReadableStream);
        expect(file.url().protocol).toBe(`${protocol}:`);
        read.push(await (await file.blob()).text());
      }
      expect(read).toEqual(["frame 0", "frame 1"]);
    });
  });

  describe("files", () => {
    test(`outputs: over ${protocol} run() gives ${protocol === "https" ? "objects" : "addresses"}`, async () => {
      const output = await replicate.run("cogway/files", { input: { name: "out.txt", size: 12 } });
      const href = String(output);
      expect(href.startsWith(`${stage().system.url}/outputs/`)).toBe(true);
      expect(await (await fetch(href)).text()).toBe("1".repeat(12));
      expect(typeof output).toBe(protocol === "https" ? "object" : "string");
      if (protocol === "http") return;
      const file = output as FileOutput;
      expect(file.url().href).toBe(href);
      const blob = await file.blob();
      expect([blob.type, await blob.text()]).toEqual([expect.stringMatching(/^text\/plain/), "1".repeat(12)]);
      const plain = new Replicate({ auth: caller.token, baseUrl: `${caller.url}/v1/`, useFileOutput: false });
      expect(await plain.run("cogway/files", { input: {} })).toMatch(/^https:/);
    });

    test("create, get, list and delete", async () => {
      const file = await replicate.files.create(new File(["abc"], "na\u00efve.txt", { type: "text/plain" }), {
        of: "me",
      });
      expect(file).toMatchObject({
        name: "na\u00efve.txt",
        content_type: "text/plain",
        size: 3,
        metadata: { of: "me" },
      });
      expect(file.checksums.sha256).toBe("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
      expect(await replicate.files.get(file.id)).toEqual(file);
      expect((await replicate.files.list()).results).toContainEqual(file);
      expect(await replicate.files.delete(file.id)).toBe(true);
      await expect(replicate.files.get(file.id)).rejects.toThrow("404");
      await expect(replicate.files.delete(file.id)).rejects.toThrow("404");
    });

    test("inputs: buffers, blobs, files, data URIs and addresses", async () => {
      const given = await replicate.files.create(Buffer.from("four"));
      const image = new File([new Uint8Array(1_234)], "photo.png", { type: "image/png" });
      const files = [Buffer.from("one"), new Blob(["fifth"]), "data:text/plain;base64,aGVsbG8=", given.urls.get];
      const output = (await replicate.run("cogway/inputs", { input: { file: image, files } })) as {
        files: { suffix: string; size: number }[];
      };
      expect(output.files.map(({ size }) => size)).toEqual([1_234, 3, 5, 5, 4]);
      expect(output.files[0]?.suffix).toBe(".png");
    });
  });

  describe("errors", () => {
    const failure = async (promise: Promise<unknown>): Promise<ApiError> => {
      const error = await promise.then(
        () => null,
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(Error);
      expect((error as ApiError).name).toBe("ApiError");
      return error as ApiError;
    };

    test("401 without a good token", async () => {
      const stranger = new Replicate({ auth: "none", baseUrl: `${caller.url}/v1` });
      const { response, message } = await failure(stranger.accounts.current());
      expect(response.status).toBe(401);
      expect(response.headers.get("content-type")).toBe("application/problem+json");
      expect(message).toContain("Unauthenticated");
    });

    test("404 of what is not there, and of what is another's", async () => {
      const { id } = await replicate.predictions.create({ model: NOOP, input: {} });
      const other = clientOf(stage().pager);
      for (const ask of [
        () => replicate.models.get("cogway", "none"),
        () => replicate.collections.get("none"),
        () => replicate.deployments.get(OWNER, "none"),
        () => replicate.predictions.create({ model: "cogway/none", input: {} }),
        () => other.predictions.get(id),
        () => other.predictions.cancel(id),
      ]) {
        expect((await failure(ask())).response.status).toBe(404);
      }
    });

    test("422 of a wrong input tells every fault, of an unknown version its title", async () => {
      const input = { count: -1, delay_ms: "fast", stamp: 3 };
      const wrong = await failure(replicate.run("cogway/tokens", { input }));
      expect(wrong.response.status).toBe(422);
      for (const field of ["input.count", "input.delay_ms", "input.stamp"]) expect(wrong.message).toContain(field);
      const unknown = await failure(replicate.predictions.create({ version: "0".repeat(64), input: {} }));
      expect(unknown.response.status).toBe(422);
      expect(unknown.message).toContain("Invalid version or not permitted");
    });

    test("429 names the second at which to come back, and that is true", async () => {
      const client = clientOf(await stage().account(`${OWNER}-hasty`, { creates_per_minute: 20 }));
      const create = (): Promise<Prediction> => client.predictions.create({ model: NOOP, input: {} });
      let limited: ApiError | null = null;
      for (let n = 0; n < 30 && limited === null; n++)
        limited = await create().then(
          () => null,
          (error) => error,
        );
      if (limited === null) throw new Error("nothing was refused");
      expect(limited.response.status).toBe(429);
      const seconds = Number(limited.response.headers.get("retry-after"));
      expect(seconds).toBeGreaterThan(0);
      expect(seconds).toBeLessThanOrEqual(3);
      const admitted = await waitFor("an admitted create", seconds * 1_000, create);
      expect(admitted).toMatchObject({ model: NOOP });
    });
  });
}
