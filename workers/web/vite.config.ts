/** Builds the page into dist/web, which the Worker serves as its assets, and puts what the API's own documentation pages need beside it. */
import { cp, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, join } from "node:path";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";
import { renderGuide } from "./docs.ts";

const outDir = join(import.meta.dirname, "../../dist/web");

const require = createRequire(import.meta.url);
/** Copied into docs-assets/, by the names that workers/routes/pages.ts asks for. */
const DOCS_ASSETS = [
  require.resolve("swagger-ui-dist/swagger-ui.css"),
  require.resolve("swagger-ui-dist/swagger-ui-bundle.js"),
];
const GUIDES = join(import.meta.dirname, "../../docs");

/** `docs-assets/<name>.html` for each guide, and `pages.json` with what search indexes. */
async function writeGuides(folder: string): Promise<void> {
  const names = (await readdir(GUIDES)).filter((file) => file.endsWith(".md")).map((file) => file.slice(0, -3));
  const guides = await Promise.all(
    names.toSorted().map(async (name) => renderGuide(name, await readFile(join(GUIDES, `${name}.md`), "utf8"))),
  );
  await Promise.all(guides.map(({ name, html }) => writeFile(join(folder, `${name}.html`), html)));
  const pages = guides.map(({ title, href, text }) => ({ name: title, href, text }));
  await writeFile(join(folder, "pages.json"), JSON.stringify(pages));
}

function docsAssets(): Plugin {
  return {
    name: "cogway:docs-assets",
    apply: "build",
    async closeBundle() {
      const folder = join(outDir, "docs-assets");
      await mkdir(folder, { recursive: true });
      await Promise.all(DOCS_ASSETS.map((file) => cp(file, join(folder, basename(file)))));
      await writeGuides(folder);
    },
  };
}

export default defineConfig({
  root: import.meta.dirname,
  plugins: [react(), docsAssets()],
  build: {
    outDir,
    emptyOutDir: true,
    // Everything stays a file of its own, which the pages' policy allows and caches keep.
    assetsInlineLimit: 0,
    target: "es2022",
  },
});
