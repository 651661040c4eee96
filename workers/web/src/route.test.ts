import { expect, it } from "vitest";
import {
  batchPath,
  buildPath,
  MODEL_VIEWS,
  modelPath,
  modelViewOf,
  modelViewPath,
  predictionPath,
  routeOf,
  runKindOf,
  runsPath,
  searchPath,
} from "./route.ts";
import { tokenOfHash } from "./session.ts";

it.each([
  ["/", { page: "home" }],
  ["/p", { page: "predictions" }],
  ["/p/", { page: "predictions" }],
  ["/p/abc", { page: "prediction", id: "abc" }],
  ["/cogway/gemma", { page: "model", owner: "cogway", name: "gemma" }],
  ["/billing", { page: "billing" }],
  ["/status", { page: "status" }],
  ["/billing/2026-11", { page: "invoice", month: "2026-11" }],
  ["/cogway", { page: "not-found" }],
  ["/a/b/c", { page: "not-found" }],
  ["/%E0%A4%A", { page: "not-found" }],
])("%s is a page", (path, route) => {
  expect(routeOf(path)).toEqual(route);
});

it("reads back the addresses it writes", () => {
  expect(routeOf(modelPath({ owner: "a b", name: "c.d" }))).toEqual({ page: "model", owner: "a b", name: "c.d" });
  expect(routeOf(predictionPath("x"))).toEqual({ page: "prediction", id: "x" });
});

it("names each list in its address, and the first where an address names none that is known", () => {
  for (const kind of ["predictions", "trainings", "batches"] as const) {
    const { pathname, search } = new URL(runsPath(kind), "http://page");
    expect([routeOf(pathname).page, runKindOf(search)]).toEqual(["predictions", kind]);
  }
  expect(runKindOf("?show=nonsense")).toBe("predictions");
  const batch = new URL(batchPath("x"), "http://page");
  expect([routeOf(batch.pathname), runKindOf(batch.search)]).toEqual([{ page: "prediction", id: "x" }, "batches"]);
});

it("names what a model's page shows in its address, and the form where an address names nothing that is known", () => {
  const model = { owner: "a", name: "m" };
  for (const view of MODEL_VIEWS) {
    const { pathname, search } = new URL(modelViewPath(model, view), "http://page");
    expect([routeOf(pathname), modelViewOf(search)]).toEqual([{ page: "model", ...model }, view]);
  }
  expect(modelViewOf("?show=nonsense")).toBe("run");
  const build = new URL(buildPath(model, "b&1"), "http://page");
  expect([modelViewOf(build.search), build.searchParams.get("build")]).toEqual(["builds", "b&1"]);
});

it("carries any query in the address of a search", () => {
  const query = "make my photo sharper & 50 % larger?";
  expect(new URL(searchPath(query), "http://page").searchParams.get("q")).toBe(query);
  expect(searchPath("")).toBe("/");
});

it("finds a token in the address that npm start prints, and in no other", () => {
  expect(tokenOfHash("#token=cw_abc")).toBe("cw_abc");
  expect(tokenOfHash("#token=")).toBeNull();
  expect(tokenOfHash("#inputs")).toBeNull();
});
