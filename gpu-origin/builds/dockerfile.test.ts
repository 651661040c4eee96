import { execFileSync } from "node:child_process";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ImageRecipe, planImage, stepOf } from "./dockerfile.ts";

function aRecipe(part: Partial<ImageRecipe> = {}): ImageRecipe {
  return {
    base: "python:3.11-slim",
    python: "3.11",
    system_packages: ["ffmpeg"],
    pre_install: [],
    requirements: "six==1.16.0",
    constraints: "",
    is_locked: false,
    runtime: ["cog==0.23.1"],
    run: [{ command: "echo hello", mounts: [] }],
    env: {},
    ref: "predict.py:Runner",
    train_ref: null,
    cache_scope: "operator",
    ...part,
  };
}

function planOf(recipe: ImageRecipe) {
  const result = planImage(recipe);
  if (result.kind === "refused") throw new Error(result.detail);
  return result.plan;
}

/** As BuildKit's parser: one instruction a line, but for lines that end with a backslash, comments and empty lines. */
function instructions(dockerfile: string): { name: string; rest: string }[] {
  return dockerfile
    .replace(/\\[ \t]*\n/g, "")
    .split("\n")
    .filter((line) => line.trim() !== "" && !line.trimStart().startsWith("#"))
    .map((line) => {
      const [, name = "", rest = ""] = /^\s*([A-Za-z]+)\s+([\s\S]*)$/.exec(line) ?? [];
      return { name: name.toUpperCase(), rest };
    });
}

/** As BuildKit reads the words of ENV, with variables as they are written. */
function variables(rest: string): [string, string][] {
  const found: [string, string][] = [];
  let word = "";
  let quote = "";
  const close = (): void => {
    if (word !== "") found.push([word.split("=")[0] ?? "", word.slice(word.indexOf("=") + 1)]);
    word = "";
  };
  for (let at = 0; at < rest.length; at++) {
    const char = rest[at] ?? "";
    const next = rest[at + 1] ?? "";
    if (char === "\\" && quote !== "'" && (quote === "" || '"\\$'.includes(next))) {
      word += next;
      at++;
    } else if (char === "$" && quote !== "'") word += "<variable>";
    else if (quote !== "" ? char === quote : char === '"' || char === "'") quote = quote === "" ? char : "";
    else if (quote === "" && /\s/.test(char)) close();
    else word += char;
  }
  close();
  return found;
}

const line = fc.string({ unit: "binary", maxLength: 40 }).map((text) => text.replace(/[\n\r\0]/g, " "));
const nasty = fc.constantFrom(
  '"\nRUN touch /x',
  "\\",
  '\\"',
  "$PATH",
  "$" + "{HOME}",
  "' ; touch /x ; '",
  "<<EOF",
  "# syntax=evil",
  "\\\n",
  "`id`",
  "\u2028RUN x",
);
const text = fc.array(fc.oneof(line, nasty), { maxLength: 5 }).map((parts) => parts.join(""));
const oneLine = text.map((value) => value.replace(/[\n\r\0]/g, " "));
const command = text.map((value) => value.replace(/\0/g, " "));

describe("the Dockerfile of a model", () => {
  it("puts what changes last at the end: packages, Python, requirements, commands, source", () => {
    const { dockerfile } = planOf(aRecipe({ pre_install: ["true"] }));
    const place = (part: string): number => {
      const at = dockerfile.lastIndexOf(part);
      expect(at, part).toBeGreaterThan(0);
      return at;
    };
    const order = [
      "sh /cogway/system-packages.sh",
      "sh /cogway/python.sh",
      "sh /cogway/pre-install-0.sh",
      "sh /cogway/requirements.sh",
      "sh /cogway/run-0.sh",
      "WORKDIR /src",
      "COPY --chown=10001:10001 source/ /src/",
    ].map(place);
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    expect(dockerfile.trimEnd().split("\n").at(-1)).toBe("USER 10001:10001");
    expect(dockerfile).not.toMatch(/^# *syntax/m);
    expect(dockerfile).not.toContain("--link");
    expect(instructions(dockerfile).filter(({ name }) => name === "FROM")).toHaveLength(3);
  });

  it("is the same for equal recipes, and says the same of a change of code alone", () => {
    expect(planOf(aRecipe())).toEqual(planOf(aRecipe()));
  });

  it("keeps downloads for the operator's models, and nothing of what others download", () => {
    expect(planOf(aRecipe()).dockerfile).toContain(
      "--mount=type=cache,id=cogway-operator-uv,sharing=shared,target=/root/.cache/uv",
    );
    expect(planOf(aRecipe({ cache_scope: null })).dockerfile).not.toContain("type=cache");
  });

  it("installs a lock as it is, and resolves what is none together with the runtime", () => {
    const script = (recipe: ImageRecipe): string =>
      planOf(recipe).files.find(({ path }) => path === "cogway/requirements.sh")?.text ?? "";
    expect(script(aRecipe({ is_locked: true }))).toContain("--no-deps -r requirements.txt");
    expect(script(aRecipe({ constraints: "torch==2.4.1" }))).toContain(
      "-c cogway-constraints.txt -r cogway-runtime.txt -r requirements.txt",
    );
  });

  it("mounts the secrets of a command for that command alone", () => {
    const { dockerfile } = planOf(
      aRecipe({
        run: [
          { command: "a", mounts: [{ id: "token", target: "/etc/token" }] },
          { command: "b", mounts: [] },
        ],
      }),
    );
    const lines = dockerfile.split("\n").filter((each) => each.includes("id=token"));
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/--mount=type=secret,id=token,target=\/etc\/token.* sh \/cogway\/run-0\.sh$/);
  });

  it("takes no instruction from what an author writes", () => {
    const skeleton = (recipe: ImageRecipe): string[] =>
      instructions(planOf(recipe).dockerfile).flatMap(({ name, rest }) => (name === "ENV" ? [] : [`${name} ${rest}`]));
    fc.assert(
      fc.property(
        fc.dictionary(fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,10}$/), oneLine, { maxKeys: 5 }),
        fc.array(command, { minLength: 1, maxLength: 3 }),
        fc.array(oneLine, { minLength: 1, maxLength: 2 }),
        command,
        oneLine,
        (env, run, packages, requirements, ref) => {
          const commands = run.map((each) => ({ command: each, mounts: [] }));
          const tame = aRecipe({ run: run.map(() => ({ command: "true", mounts: [] })) });
          const { dockerfile } = planOf(aRecipe({ env, run: commands, system_packages: packages, requirements, ref }));
          expect(skeleton(aRecipe({ env, run: commands, system_packages: packages, requirements, ref }))).toEqual(
            skeleton(tame),
          );
          const read = instructions(dockerfile)
            .filter(({ name }) => name === "ENV")
            .flatMap(({ rest }) => variables(rest));
          expect(read).toEqual(expect.arrayContaining(Object.entries(env)));
          expect(read).toContainEqual(["COG_PREDICT_TYPE_STUB", ref]);
          expect(dockerfile.split("\n").every((each) => each.length < 65_535)).toBe(true);
        },
      ),
    );
  });

  it("gives the shell each package as one word", () => {
    fc.assert(
      fc.property(fc.array(oneLine, { minLength: 1, maxLength: 3 }), (packages) => {
        const script = planOf(aRecipe({ system_packages: packages })).files.find(({ path }) =>
          path.includes("system-packages"),
        );
        const install = script?.text.split("\n").find((each) => each.includes("--no-install-recommends")) ?? "";
        const shown = install.replace(/^.*--no-install-recommends/, "printf '%s\\0'");
        expect(execFileSync("sh", ["-c", shown]).toString("utf8").split("\0").slice(0, -1)).toEqual(packages);
      }),
      { numRuns: 30 },
    );
  });

  it.each([
    { what: "a line break in a variable", part: { env: { A: "x\nRUN y" } }, detail: /environment: A has a line break/ },
    { what: "a name that is none", part: { env: { "A B": "x" } }, detail: /no name of a variable/ },
    { what: "a value beyond a line", part: { env: { A: "x".repeat(40_000) } }, detail: /longer than/ },
    { what: "a base that is none", part: { base: "python AS x\nRUN y" }, detail: /no reference of an image/ },
    { what: "a Python that is none", part: { python: "3.11; id" }, detail: /a version such as/ },
    {
      what: "a secret of ours",
      part: { run: [{ command: "x", mounts: [{ id: "cogway_host", target: "/x" }] }] },
      detail: /cannot be named/,
    },
    {
      what: "options in a target",
      part: { run: [{ command: "x", mounts: [{ id: "x", target: "/x,uid=0" }] }] },
      detail: /cannot be the target/,
    },
  ])("refuses $what", ({ part, detail }) => {
    expect(planImage(aRecipe(part))).toEqual({ kind: "refused", detail: expect.stringMatching(detail) });
  });

  it("knows each of its steps by BuildKit's name of it", () => {
    const run = Array.from({ length: 12 }, (_, index) => ({ command: `c${index}`, mounts: [] }));
    const plan = planOf(aRecipe({ run }));
    const names = instructions(plan.dockerfile)
      .filter(({ name }) => name === "RUN" || name === "COPY")
      .map(({ name, rest }, index) => `[model ${index}/20] ${name} ${rest}`);
    const titles = names.map((name) => stepOf(plan, name)?.title);
    expect(new Set(titles).size).toBe(names.length);
    expect(titles).toContain("build.run: c1");
    expect(titles).toContain("build.run: c11");
    expect(stepOf(plan, "[internal] load remote build context")).toBeNull();
  });
});
