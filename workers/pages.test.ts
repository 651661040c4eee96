/** Health, the documentation, and the web page. The files that the build makes are replaced by a few of the same names. */
import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import problemsPage from "../docs/problems.md?raw";
import { PROBLEMS } from "../schema/problems.ts";
import { app } from "./app.ts";
import { anAnnounce, call, FakeOrigin, PUBLIC_URL, problemOf } from "./testing/edge.ts";

const FILES: Record<string, [type: string, text: string]> = {
  "/": ["text/html", "<!doctype html><title>Cogway</title>"],
  "/assets/main-abc.js": ["text/javascript", "run()"],
  "/docs-assets/problems.html": ["text/html", '<h2 id="route.not_found">route.not_found</h2>'],
};

const ASSETS = {
  fetch: async (request: Request) => {
    const file = FILES[new URL(request.url).pathname];
    if (file === undefined) return new Response("Not found", { status: 404 });
    const etag = `"${file[1].length}"`;
    if (request.headers.get("if-none-match") === etag) return new Response(null, { status: 304, headers: { etag } });
    return new Response(file[1], { headers: { "content-type": file[0], etag } });
  },
};

async function get(path: string, method = "GET", headers: Record<string, string> = {}): Promise<Response> {
  const context = createExecutionContext();
  const answer = await app.fetch(
    new Request(PUBLIC_URL + path, { method, headers }),
    { ...env, ASSETS } as unknown as Env,
    context,
  );
  await waitOnExecutionContext(context);
  return answer;
}

describe("/healthz", () => {
  it("says why predictions cannot run, until they can", async () => {
    const alone = await call("GET", "/healthz");
    expect(alone.status).toBe(503);
    expect(await problemOf(alone)).toMatchObject({ code: "origin.unavailable", detail: "No origin is connected." });

    const origin = await FakeOrigin.join();
    const { version: _version, ...preparing } = anAnnounce({ state: "preparing" });
    await origin.announce("echo", preparing);
    expect((await problemOf(await call("GET", "/healthz"))).code).toBe("model.preparing");

    await origin.announce("echo", anAnnounce());
    const ready = await call("GET", "/healthz");
    expect([ready.status, await ready.json()]).toEqual([200, { status: "ok", origins_alive: 1 }]);
  });
});

describe("the web page", () => {
  it.each(["/", "/p", "/p/abc", "/cogway/echo", "/some-one/llama-3.1"])(
    "is at %s, with a strict policy",
    async (path) => {
      const answer = await get(path);
      expect(answer.status).toBe(200);
      expect(await answer.text()).toContain("<title>Cogway</title>");
      const policy = answer.headers.get("content-security-policy");
      expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self';");
      expect(policy).toContain("frame-ancestors 'none'");
      expect(answer.headers.get("x-frame-options")).toBe("DENY");
      expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
    },
  );

  it.each(["/", "/assets/main-abc.js"])("is still at %s for a browser that has it already", async (path) => {
    const etag = (await get(path)).headers.get("etag") ?? "";
    expect((await get(path, "GET", { "if-none-match": etag })).status).toBe(304);
  });

  it("has its files, which never change under their names", async () => {
    const file = await get("/assets/main-abc.js");
    expect(await file.text()).toBe("run()");
    expect(file.headers.get("cache-control")).toContain("immutable");
  });

  it.each(["/v1/nothing", "/admin/x", "/assets/none.js", "/a/b/c", "/p/a/b", "/Not/A-Name", "/favicon.ico"])(
    "is not at %s",
    async (path) => {
      const answer = await get(path);
      expect(answer.status).toBe(404);
      expect((await problemOf(answer)).code).toBe("route.not_found");
    },
  );

  it("is only read", async () => {
    expect((await get("/", "POST")).status).toBe(404);
    expect(await (await get("/", "HEAD")).text()).toBe("");
  });
});

describe("documentation", () => {
  it("describes the API in OpenAPI 3.1, and shows it with own files alone", async () => {
    const document = await (await get("/openapi.json")).json<{ openapi: string; paths: object }>();
    expect(document.openapi).toBe("3.1.0");
    expect(Object.keys(document.paths)).toContain("/v1/predictions");
    const page = await (await get("/docs")).text();
    const files = [...page.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1]);
    expect(files).toEqual([
      "/favicon.svg",
      "/docs-assets/swagger-ui.css",
      "/docs-assets/swagger-ui-bundle.js",
      "/docs/init.js",
    ]);
    expect(await (await get("/docs/init.js")).text()).toContain("/openapi.json");
  });

  it("has a section on every problem, at the address that the problem names", async () => {
    const sections = [...problemsPage.matchAll(/^## (.+)$/gm)].map((match) => match[1]);
    expect(sections.toSorted()).toEqual(Object.keys(PROBLEMS).toSorted());
    for (const [code, row] of Object.entries(PROBLEMS)) {
      const section = problemsPage.split(`## ${code}\n`)[1]?.trim() ?? "";
      expect(section).toMatch(new RegExp(`^${row.status}\\. \\S`));
    }
    const { type } = await problemOf(await get("/v1/nothing"));
    expect(type).toBe(`${PUBLIC_URL}/docs/problems#route.not_found`);
    const page = await (await get("/docs/problems")).text();
    expect(page).toContain('<h2 id="route.not_found">');
    expect((await get("/docs/nothing")).status).toBe(404);
  });
});
