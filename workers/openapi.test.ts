/** schema/openapi.json is what the routes make. `npm run openapi` runs this test with `-u`, which writes it. */
import { expect, it } from "vitest";
import { app } from "./app.ts";
import { openapiDocument } from "./openapi-document.ts";

it("equals its committed copy", async () => {
  const text = `${JSON.stringify(openapiDocument(app), null, 2)}\n`;
  await expect(text).toMatchFileSnapshot("../schema/openapi.json");
});
