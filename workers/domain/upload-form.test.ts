/** The form of an upload, wherever the network cuts it. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AppError } from "../../schema/problems.ts";
import { readUploadForm, type UploadForm } from "./upload-form.ts";

const encoder = new TextEncoder();
const NAME = 'na\u00efve "q" \u65e5\u672c.txt';
const NAME_SENT = NAME.replaceAll('"', "%22");

interface Sample {
  boundary: string;
  body: string;
  form: UploadForm;
  content: string;
}

/** Byte for byte what these clients sent to a server that recorded it. */
const clients: Record<string, Sample> = {
  "PyPI replicate 1.0.7": {
    boundary: "12e324c5e706184fdcb484c21b1e38cb",
    body: `--12e324c5e706184fdcb484c21b1e38cb\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{"a": 1}\r\n--12e324c5e706184fdcb484c21b1e38cb\r\nContent-Disposition: form-data; name="content"; filename="${NAME_SENT}"\r\nContent-Type: text/plain\r\n\r\nhi\r\n\r\n--12e324c5e706184fdcb484c21b1e38cb--\r\n`,
    form: { content: { filename: NAME, type: "text/plain" }, fields: { metadata: '{"a": 1}' } },
    content: "hi\r\n",
  },
  "PyPI replicate 1.0.7, bytes without a name": {
    boundary: "ef0a333865e480bc9beed6a30aef5c7c",
    body: '--ef0a333865e480bc9beed6a30aef5c7c\r\nContent-Disposition: form-data; name="content"; filename="file"\r\nContent-Type: application/octet-stream\r\n\r\nx\r\n--ef0a333865e480bc9beed6a30aef5c7c--\r\n',
    form: { content: { filename: "file", type: "application/octet-stream" }, fields: {} },
    content: "x",
  },
  "npm replicate 1.4.0, a buffer": {
    boundary: "----formdata-undici-015569792071",
    body: '------formdata-undici-015569792071\r\nContent-Disposition: form-data; name="content"; filename="buffer_1795557642978"\r\nContent-Type: application/octet-stream\r\n\r\nhi\r\n\r\n------formdata-undici-015569792071\r\nContent-Disposition: form-data; name="metadata"; filename="blob"\r\nContent-Type: application/json\r\n\r\n{"a":1}\r\n------formdata-undici-015569792071--\r\n',
    form: {
      content: { filename: "buffer_1795557642978", type: "application/octet-stream" },
      fields: { metadata: '{"a":1}' },
    },
    content: "hi\r\n",
  },
  "npm replicate 1.4.0, a file": {
    boundary: "----formdata-undici-055994262636",
    body: `------formdata-undici-055994262636\r\nContent-Disposition: form-data; name="content"; filename="${NAME_SENT}"\r\nContent-Type: text/plain\r\n\r\nhi\r\n------formdata-undici-055994262636\r\nContent-Disposition: form-data; name="metadata"; filename="blob"\r\nContent-Type: application/json\r\n\r\n{}\r\n------formdata-undici-055994262636--\r\n`,
    form: { content: { filename: NAME, type: "text/plain" }, fields: { metadata: "{}" } },
    content: "hi",
  },
  "curl 7.88.1": {
    boundary: "------------------------bde632a674b19719",
    body: `--------------------------bde632a674b19719\r\nContent-Disposition: form-data; name="content"; filename="${NAME_SENT}"\r\nContent-Type: text/plain\r\n\r\nhi\r\n\r\n--------------------------bde632a674b19719\r\nContent-Disposition: form-data; name="metadata"\r\nContent-Type: application/json\r\n\r\n{"a":1}\r\n--------------------------bde632a674b19719--\r\n`,
    form: { content: { filename: NAME, type: "text/plain" }, fields: { metadata: '{"a":1}' } },
    content: "hi\r\n",
  },
};

function chunked(chunks: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) if (chunk.length > 0) controller.enqueue(chunk);
      controller.close();
    },
  });
}

/** `bytes` cut at these places. */
function cut(bytes: Uint8Array, places: number[]): Uint8Array[] {
  const sorted = [0, ...places.toSorted((a, b) => a - b), bytes.length];
  return sorted.slice(1).map((end, i) => bytes.slice(sorted[i], end));
}

async function readForm(chunks: Uint8Array[], boundary: string): Promise<{ form: UploadForm; content: Uint8Array }> {
  const content: Uint8Array[] = [];
  const form = await readUploadForm(chunked(chunks), `multipart/form-data; boundary=${boundary}`, async (bytes) => {
    content.push(bytes.slice());
  });
  return { form, content: Buffer.concat(content) };
}

async function codeOf(body: string | Uint8Array, type: string): Promise<string> {
  const bytes = typeof body === "string" ? encoder.encode(body) : body;
  const fault = await readUploadForm(chunked([bytes]), type, async () => undefined).catch((error: unknown) => error);
  return fault instanceof AppError ? fault.code : `no problem: ${String(fault)}`;
}

describe("what clients send", () => {
  for (const [client, { boundary, body, form, content }] of Object.entries(clients)) {
    it(`of ${client} is read the same wherever it is cut`, async () => {
      const bytes = encoder.encode(body);
      const want = { form, content: new Uint8Array(encoder.encode(content)) };
      const places = Array.from({ length: bytes.length + 1 }, (_, place) => [place]);
      for (const at of [...places, Array.from(bytes.keys())]) {
        const read = await readForm(cut(bytes, at), boundary);
        expect({ form: read.form, content: new Uint8Array(read.content) }, `cut at ${at.slice(0, 5)}`).toEqual(want);
      }
    });
  }
});

it("guarantees the bytes of any file, cut anywhere, also where they look like the boundary", async () => {
  const boundary = "--x";
  const piece = fc.oneof(
    fc.uint8Array({ maxLength: 40 }),
    fc
      .constantFrom("\r\n", "\r\n--", "\r\n----", "\r\n----y", "----x", "--", "-", "\r", "\n")
      .map((text) => encoder.encode(text)),
  );
  const file = fc.array(piece, { maxLength: 8 }).map((pieces) => Buffer.concat(pieces));
  await fc.assert(
    fc.asyncProperty(
      file,
      fc.array(fc.nat(400), { maxLength: 12 }),
      fc.boolean(),
      async (bytes, cuts, metadataFirst) => {
        fc.pre(!bytes.includes("\r\n----x") && !Buffer.concat([encoder.encode("\r\n"), bytes]).includes("\r\n----x"));
        const content = Buffer.concat([
          encoder.encode('----x\r\nContent-Disposition: form-data; name="content"; filename="f"\r\n\r\n'),
          bytes,
          encoder.encode("\r\n"),
        ]);
        const metadata = encoder.encode('----x\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{"n":1}\r\n');
        const body = Buffer.concat([
          ...(metadataFirst ? [metadata, content] : [content, metadata]),
          encoder.encode("----x--\r\n"),
        ]);
        const read = await readForm(
          cut(
            body,
            cuts.filter((place) => place < body.length),
          ),
          boundary,
        );
        expect(Buffer.compare(Buffer.from(read.content), bytes)).toBe(0);
        expect(read.form.fields).toEqual({ metadata: '{"n":1}' });
      },
    ),
    { numRuns: 400 },
  );
});

describe("a form that is none", () => {
  const type = "multipart/form-data; boundary=b";
  const file = '--b\r\nContent-Disposition: form-data; name="content"; filename="f"\r\n\r\nx\r\n';
  const cases: [what: string, body: string, type: string, code: string][] = [
    ["JSON", "{}", "application/json", "request.unsupported_media_type"],
    ["a form of another kind", "a=b", "application/x-www-form-urlencoded", "request.unsupported_media_type"],
    ["no type at all", file, "", "request.unsupported_media_type"],
    ["no boundary", `${file}--b--\r\n`, "multipart/form-data", "request.malformed"],
    ["an empty boundary", `${file}--b--\r\n`, 'multipart/form-data; boundary=""', "request.malformed"],
    ["another boundary", `${file}--b--\r\n`, "multipart/form-data; boundary=c", "request.malformed"],
    ["no last boundary", file, type, "request.malformed"],
    ["an end within the file", file.slice(0, -3), type, "request.malformed"],
    ["an end within a head", file.slice(0, 40), type, "request.malformed"],
    ["no bytes", "", type, "request.malformed"],
    ["a head with a control character", file.replace('"f"', '"f\u0001"'), type, "request.malformed"],
    ["a head without end", `--b\r\nX: ${"x".repeat(20_000)}\r\n\r\nx\r\n--b--\r\n`, type, "request.malformed"],
    ["a part without a name", file.replace(' name="content";', ""), type, "request.malformed"],
    [
      "21 parts",
      `${'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n'.repeat(21)}--b--\r\n`,
      type,
      "request.malformed",
    ],
    ["no file", '--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{}\r\n--b--\r\n', type, "file.invalid"],
    ["two files", `${file}${file}--b--\r\n`, type, "file.invalid"],
    ["a file as plain text", `${file.replace('; filename="f"', "")}--b--\r\n`, type, "file.invalid"],
    [
      "long metadata",
      `${file}--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n${"x".repeat(40_000)}\r\n--b--\r\n`,
      type,
      "file.invalid",
    ],
  ];
  for (const [what, body, given, code] of cases) {
    it(`is refused: ${what}`, async () => expect(await codeOf(body, given)).toBe(code));
  }

  it("is refused at once: what comes behind the fault is not read", async () => {
    let pulled = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        pulled += 1;
        controller.enqueue(encoder.encode(pulled === 1 ? `${file}${file}` : "x".repeat(1_000)));
      },
    });
    await expect(readUploadForm(body, type, async () => undefined)).rejects.toThrow("content` came twice");
    expect(pulled).toBeLessThan(5);
  });

  it("skips parts that it does not know, whatever they hold", async () => {
    const unknown = `--b\r\nContent-Disposition: form-data; name="other"; filename="o"\r\n\r\n${"y".repeat(100_000)}\r\n`;
    const read = await readForm([encoder.encode(`preamble\r\n${unknown}${file}--b--\r\nepilogue`)], "b");
    expect(read.form).toEqual({ content: { filename: "f", type: "" }, fields: {} });
    expect(Buffer.from(read.content).toString()).toBe("x");
  });
});
