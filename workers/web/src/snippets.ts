/** The same prediction from a program: with curl, and with the client libraries that speak this API. */
type Json = Record<string, unknown>;

export interface SnippetRequest {
  /** without a slash at its end */
  origin: string;
  model: string;
  /** null: the model's latest */
  version: string | null;
  input: Json;
  /** names of inputs that are secrets: never written out */
  secrets: string[];
}

export const LANGUAGES = ["curl", "javascript", "python"] as const;
export type Language = (typeof LANGUAGES)[number];

/** A data URI longer than this is left out: nobody pastes a picture into a program. */
const VALUE_CHARACTERS_MAX = 500;

/** The input with secrets and files replaced by what to put there. */
function shown(input: Json, secrets: string[]): Json {
  const replace = (value: unknown): unknown => {
    if (typeof value === "string" && value.startsWith("data:") && value.length > VALUE_CHARACTERS_MAX)
      return "<URL of your file, or a data: URI>";
    return Array.isArray(value) ? value.map(replace) : value;
  };
  return Object.fromEntries(
    Object.entries(input).map(([name, value]) => [name, secrets.includes(name) ? "<your secret>" : replace(value)]),
  );
}

export function snippet(language: Language, request: SnippetRequest): string {
  const input = shown(request.input, request.secrets);
  const reference = request.version === null ? request.model : `${request.model}:${request.version}`;
  switch (language) {
    case "curl": {
      const body = request.version === null ? { input } : { version: request.version, input };
      const path = request.version === null ? `/v1/models/${request.model}/predictions` : "/v1/predictions";
      return [
        `curl -s ${request.origin}${path} \\`,
        `  -H "Authorization: Bearer $COGWAY_TOKEN" \\`,
        `  -H "Content-Type: application/json" \\`,
        `  -H "Prefer: wait" \\`,
        `  -d ${shellQuoted(JSON.stringify(body, null, 2))}`,
      ].join("\n");
    }
    case "javascript":
      return [
        `import Replicate from "replicate";`,
        "",
        "const client = new Replicate({",
        "  auth: process.env.COGWAY_TOKEN,",
        `  baseUrl: ${JSON.stringify(`${request.origin}/v1`)},`,
        "});",
        `const output = await client.run(${JSON.stringify(reference)}, {`,
        `  input: ${indented(JSON.stringify(input, null, 2), "  ")},`,
        "});",
        "console.log(output);",
      ].join("\n");
    case "python":
      return [
        "import os",
        "from replicate import Client",
        "",
        "client = Client(",
        `    api_token=os.environ["COGWAY_TOKEN"],`,
        `    base_url=${JSON.stringify(request.origin)},`,
        ")",
        "output = client.run(",
        `    ${JSON.stringify(reference)},`,
        `    input=${indented(python(input), "    ")},`,
        ")",
        "print(output)",
      ].join("\n");
  }
}

const shellQuoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;
const indented = (text: string, by: string) => text.replaceAll("\n", `\n${by}`);

/** A value as a Python literal. Strings are JSON's: Python reads its escapes, but for the surrogate pairs that JSON.stringify does not write. */
export function python(value: unknown, indent = ""): string {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}    `;
  const lines = Array.isArray(value)
    ? value.map((item) => deeper + python(item, deeper))
    : Object.entries(value).map(([key, item]) => `${deeper}${JSON.stringify(key)}: ${python(item, deeper)}`);
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  return lines.length === 0 ? open + close : `${open}\n${lines.join(",\n")},\n${indent}${close}`;
}
