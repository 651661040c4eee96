/** The guides as the site shows them: each problem's address is a heading, and each link between guides leads somewhere. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { PROBLEMS } from "../../schema/problems.ts";
import { renderGuide } from "./docs.ts";

const FOLDER = join(import.meta.dirname, "../../docs");
const names = readdirSync(FOLDER).map((file) => file.replace(".md", ""));
const guides = new Map(
  names.map((name) => [name, renderGuide(name, readFileSync(join(FOLDER, `${name}.md`), "utf8"))]),
);

describe("the guides", () => {
  it("have a heading at the address of every problem", () => {
    for (const code of Object.keys(PROBLEMS)) expect(guides.get("problems")?.html).toContain(`<h2 id="${code}">`);
  });

  it.each(names)("link from %s to what is there", (name) => {
    const { html = "", title = "" } = guides.get(name) ?? {};
    expect(title).not.toBe(name);
    const links = [...html.matchAll(/href="([^"]+)"/g)].map((match) => match[1] ?? "");
    for (const link of links.filter((href) => !/^(https?:|\/)/.test(href))) {
      const [target = "", heading] = link.split("#");
      const guide = guides.get(target === "" ? name : target);
      expect(guide, `${name} links to ${link}`).toBeDefined();
      if (heading !== undefined) expect(guide?.html).toContain(`id="${heading}"`);
    }
  });
});
