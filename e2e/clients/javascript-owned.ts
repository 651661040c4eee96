/** npm `replicate` 1.x: webhooks, deployments and trainings. */
import { type default as Replicate, type Training, validateWebhook } from "replicate";
import { beforeAll, describe, expect, test } from "vitest";
import { zipOf } from "../../gpu-origin/testing/zip.ts";
import type { WebhookCall } from "../lib/receiver.ts";
import { waitFor } from "../lib/wait.ts";
import { clientOf, NOOP, untilEnd, versionOf, WITHIN_MS } from "./javascript-lib.ts";
import type { Stage } from "./stage.ts";

const OWNER = "javascript-owned";

export function javascriptOwned(stage: () => Stage): void {
  let replicate: Replicate;
  beforeAll(async () => {
    replicate = clientOf(await stage().account(OWNER));
  });

  describe("webhooks", () => {
    const callsOf = async (id: string, wanted: string): Promise<WebhookCall[]> =>
      waitFor(`webhook ${wanted}`, WITHIN_MS, () => {
        const calls = stage().receiver.about(id);
        return calls.some(({ body }) => body.status === wanted) ? calls : null;
      });

    test("are signed so that validateWebhook accepts them, and nothing else", async () => {
      const { receiver } = stage();
      const { key } = await replicate.webhooks.default.secret.get();
      const webhook = `${receiver.url}/hook?from=js`;
      const { id } = await replicate.predictions.create({
        model: "cogway/tokens",
        input: { count: 3 },
        webhook,
        webhook_events_filter: ["start", "completed"],
      });
      const calls = await callsOf(id, "succeeded");
      expect(calls.map(({ body }) => body.status)).toEqual(["processing", "succeeded"]);
      for (const { path, headers, text } of calls) {
        expect(path).toBe("/hook?from=js");
        const request = (body: string): Request =>
          new Request(webhook, { method: "POST", headers: headers as Record<string, string>, body });
        expect(await validateWebhook(request(text), key)).toBe(true);
        expect(await validateWebhook(request(`${text} `), key)).toBe(false);
      }
      expect(calls.at(-1)?.body).toEqual(await replicate.predictions.get(id));
    });

    test("run() and trainings have them too", async () => {
      const webhook = stage().receiver.url;
      let id = "";
      await replicate.run(NOOP, { input: {}, webhook, webhook_events_filter: ["completed"] }, (prediction) => {
        id = prediction.id;
      });
      expect(await callsOf(id, "succeeded")).toHaveLength(1);
    });
  });

  describe("deployments", () => {
    test("create, get, list, update, predictions and delete", async () => {
      const version = await versionOf(replicate, "noop");
      const configuration = { hardware: "cpu", min_instances: 0, max_instances: 1 };
      const wanted = { name: "mine", model: NOOP, version, ...configuration };
      const made = await replicate.deployments.create(wanted);
      expect(made).toMatchObject({
        owner: OWNER,
        name: "mine",
        current_release: {
          number: 1,
          model: NOOP,
          version,
          created_by: { type: "user", username: OWNER },
          configuration,
        },
      });
      expect(await replicate.deployments.get(OWNER, "mine")).toMatchObject({ current_release: { number: 1 } });
      const changed = await replicate.deployments.update(OWNER, "mine", { max_instances: 2 });
      expect(changed.current_release).toMatchObject({
        number: 2,
        configuration: { ...configuration, max_instances: 2 },
      });
      const prediction = await replicate.deployments.predictions.create(OWNER, "mine", {
        input: { text: "deployed" },
        wait: true,
      });
      expect(prediction).toMatchObject({ status: "succeeded", output: "deployed", deployment: `${OWNER}/mine` });
      await replicate.deployments.create({ ...wanted, name: "unused" });
      expect((await replicate.deployments.list()).results.map(({ name }) => name)).toEqual(["unused", "mine"]);
      expect(await replicate.deployments.delete(OWNER, "unused")).toBe(true);
      await expect(replicate.deployments.get(OWNER, "unused")).rejects.toThrow("404");
      // It was used within the last 15 minutes.
      await expect(replicate.deployments.delete(OWNER, "mine")).rejects.toThrow("409");
    });
  });

  describe("trainings", () => {
    const train_data = zipOf({ "a.txt": "roses", "b.txt": "violets" });
    async function train(name: string, input: object, more: object = {}): Promise<Training> {
      await replicate.models.create(OWNER, name, { visibility: "private", hardware: "cpu" });
      const destination = `${OWNER}/${name}` as const;
      const { urls } = await replicate.files.create(
        new File([new Uint8Array(train_data)], "flowers.zip", { type: "application/zip" }),
      );
      const options = { destination, input: { train_data: urls.get, ...input }, ...more };
      return replicate.trainings.create("cogway", "trainer", await versionOf(replicate, "trainer"), options);
    }

    test("create, get, list; the version that comes of it runs, is shown as an example, and is deleted", async () => {
      const { receiver } = stage();
      const made = await train("garden", { steps: 3 }, { webhook: receiver.url, webhook_events_filter: ["completed"] });
      expect(made).toMatchObject({ status: "starting", model: "cogway/trainer", input: { steps: 3 } });
      const ended = await untilEnd(() => replicate.trainings.get(made.id));
      expect(ended).toMatchObject({ id: made.id, status: "succeeded", logs: expect.stringContaining("step 3/3") });
      expect((await replicate.trainings.list()).results.map(({ id }) => id)).toContain(made.id);
      await waitFor("its webhook", WITHIN_MS, () => receiver.about(made.id)[0]);
      const version = ended.output?.version ?? "";
      expect(version).toMatch(/^javascript-owned\/garden:[0-9a-f]{64}$/);
      const run = await replicate.predictions.create({ version, input: { text: "hi" }, wait: true });
      expect(run.output).toBe("hi from roses violets");

      const path = `/models/${OWNER}/garden`;
      const examples = async (): Promise<unknown> => (await replicate.request(`${path}/examples`, {})).json();
      await replicate.request(`${path}/examples`, { method: "POST", data: { prediction_id: run.id } });
      expect(await examples()).toMatchObject({ results: [{ id: run.id, output: "hi from roses violets" }] });
      const versionPath = `${path}/versions/${version.split(":")[1]}`;
      await expect(replicate.request(versionPath, { method: "DELETE" })).rejects.toThrow("409");
      await replicate.request(`${path}/examples/${run.id}`, { method: "DELETE" });
      expect((await replicate.request(versionPath, { method: "DELETE" })).status).toBe(202);
      expect((await replicate.request(path, { method: "DELETE" })).status).toBe(204);
    });

    test("cancel", async () => {
      const { id } = await train("weeds", { steps: 1_000, pause_s: 0.1 });
      await waitFor("it runs", WITHIN_MS, async () =>
        (await replicate.trainings.get(id)).status === "processing" ? true : null,
      );
      expect(await replicate.trainings.cancel(id)).toMatchObject({ id, status: "canceled" });
      expect(await replicate.trainings.get(id)).toMatchObject({ id, status: "canceled", output: null });
    });
  });
}
