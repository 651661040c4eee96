import { expect, it } from "vitest";
import { modelPath, predictionPath, routeOf } from "./route.ts";
import { tokenOfHash } from "./session.ts";

it.each([
  ["/", { page: "home" }],
  ["/p", { page: "predictions" }],
  ["/p/", { page: "predictions" }],
  ["/p/abc", { page: "prediction", id: "abc" }],
  ["/cogway/gemma", { page: "model", owner: "cogway", name: "gemma" }],
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

it("finds a token in the address that npm start prints, and in no other", () => {
  expect(tokenOfHash("#token=cw_abc")).toBe("cw_abc");
  expect(tokenOfHash("#token=")).toBeNull();
  expect(tokenOfHash("#inputs")).toBeNull();
});
