import { expect, it } from "vitest";
import { type Api, ApiError, type Batch, type Prediction } from "./api.ts";
import { findRun } from "./find-run.ts";

const none = (code: string) => new ApiError(404, { code, detail: code } as ApiError["problem"]);
function apiWith(holds: "prediction" | "batch" | "nothing"): Pick<Api, "prediction" | "batch"> {
  return {
    prediction: async (id) => {
      if (holds !== "prediction") throw none("prediction.not_found");
      return { id } as Prediction;
    },
    batch: async (id) => {
      if (holds !== "batch") throw none("batch.not_found");
      return { id } as Batch;
    },
  };
}

it.each([true, false])(
  "finds what an id names, whatever it looks for first (batch first: %j)",
  async (isBatchFirst) => {
    expect((await findRun(apiWith("prediction"), "x", isBatchFirst)).kind).toBe("prediction");
    expect((await findRun(apiWith("batch"), "x", isBatchFirst)).kind).toBe("batch");
    await expect(findRun(apiWith("nothing"), "x", isBatchFirst)).rejects.toMatchObject({
      problem: { code: "prediction.not_found" },
    });
  },
);

it("looks no further where the server itself fails", async () => {
  const failing = { ...apiWith("batch"), prediction: () => Promise.reject(new ApiError(0, null)) };
  await expect(findRun(failing, "x", false)).rejects.toMatchObject({ status: 0 });
});
