import { describe, expect, it } from "vitest";
import { readCogLabels, writeCogLabels } from "./labels.ts";

const written = writeCogLabels({
  cog_version: "0.23.1",
  config: { run: "predict.py:Runner", environment: ["A=b"], concurrency: { max: 4 } },
  openapi_schema: { openapi: "3.0.2" },
  pip_freeze: "six==1.16.0\ncog==0.23.1",
});

describe("Cog's labels", () => {
  it("are read as they were written", () => {
    expect(readCogLabels(written)).toEqual({
      cog_version: "0.23.1",
      config: { run: "predict.py:Runner", environment: ["A=b"], concurrency: { max: 4 } },
      openapi_schema: { openapi: "3.0.2" },
    });
    expect(written["run.cog.pip_freeze"]).toBe("six==1.16.0\ncog==0.23.1");
  });

  it("have an older name", () => {
    const old = { "org.cogmodel.config": '{"predict":"predict.py:Predictor"}', "org.cogmodel.openapi_schema": "{}" };
    expect(readCogLabels(old)).toMatchObject({ config: { predict: "predict.py:Predictor" }, cog_version: "unknown" });
  });

  it.each([
    { what: "an image that is no model", labels: {}, fault: /no label run.cog.config/ },
    { what: "a config that is no JSON", labels: { "run.cog.config": "{" }, fault: /run.cog.config is not/ },
    { what: "no schema", labels: { "run.cog.config": "{}" }, fault: /run.cog.openapi_schema is not/ },
  ])("say what is wrong with $what", ({ labels, fault }) => {
    expect(readCogLabels(labels)).toEqual({ fault: expect.stringMatching(fault) });
  });
});
