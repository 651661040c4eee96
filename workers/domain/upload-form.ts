/**
 * The multipart/form-data of a file upload, read as a stream: the file's bytes are handed on as they come, and only the small fields are held.
 *
 * What clients send: a browser and npm `replicate` put `metadata` behind the file as a part with a file name, PyPI `replicate` before it as a plain
 * field; names of files are raw UTF-8.
 */
import { parse as parseDisposition } from "content-disposition";
import { type MultipartError, make } from "multipasta";
import { AppError } from "../../schema/problems.ts";

/** Fields that say something of the file; others are skipped unread. */
const FIELDS = ["filename", "type", "metadata"] as const;
type Field = (typeof FIELDS)[number];
/** Longer than any of them may be: what it holds is judged where it is understood. */
const FIELD_BYTES_MAX = 32_768;
/** Those that are known, and room for what clients may add. */
const PARTS_MAX = 20;
/** RFC 2046, section 5.1.1. */
const BOUNDARY = /boundary=(?:"[^"]{1,70}"|[^\s;"]{1,70})/i;
/** From the first byte to the last: 100 MiB at 60 kB/s. Slower senders hold what others need. */
const FORM_TIME_MAX_MS = 1_800_000;
const DASH = 45;

export interface UploadForm {
  /** name and type of the file's own part, as they were sent; an empty type is none */
  content: { filename: string; type: string };
  fields: Partial<Record<Field, string>>;
}

/** Reads the whole form; `onContent` gets the file's bytes in order, each call after the last one's end. Throws problems, and leaves the rest unread. */
export async function readUploadForm(
  body: ReadableStream<Uint8Array> | null,
  contentType: string,
  onContent: (bytes: Uint8Array) => Promise<void>,
): Promise<UploadForm> {
  if (!/^multipart\/form-data\s*(?:;|$)/i.test(contentType)) {
    throw new AppError(
      "request.unsupported_media_type",
      "Send the file as multipart/form-data, in a part named `content`.",
    );
  }
  if (body === null || !BOUNDARY.test(contentType)) throw malformed("it has no boundary or no bytes");
  const form = new FormParts();
  const parser = make({
    headers: { "content-type": contentType },
    maxParts: PARTS_MAX,
    isFile: () => true,
    onFile: ({ headers }) =>
      form.begin(headerText(headers["content-disposition"]), headerText(headers["content-type"])),
    onField: () => undefined,
    onError: (error) => form.fail(malformed(reasonOf(error))),
    onDone: () => form.end(),
  });
  const feed = async (bytes: Uint8Array): Promise<void> => {
    parser.write(bytes);
    for (const chunk of form.takeContent()) await onContent(chunk);
    form.check();
  };
  const reader = body.getReader();
  const deadline = setTimeout(() => {
    form.fail(malformed("it did not arrive within half an hour"));
    void reader.cancel();
  }, FORM_TIME_MAX_MS);
  try {
    // The parser knows the two dashes of the last boundary only when they come together: dashes at the end of what came wait for what follows.
    let held = new Uint8Array();
    for (;;) {
      const { done, value } = await read(reader);
      if (done) break;
      const bytes = joined(held, value);
      let end = bytes.length;
      while (end > 0 && bytes[end - 1] === DASH && bytes.length - end < 2) end -= 1;
      held = bytes.slice(end);
      if (end > 0) await feed(bytes.subarray(0, end));
    }
    if (held.length > 0) await feed(held);
    parser.end();
    return form.result();
  } finally {
    clearTimeout(deadline);
    reader.releaseLock();
  }
}

/** The parts as they pass. The parser calls without awaiting, so content waits here until it is taken. */
class FormParts {
  readonly #fields: Partial<Record<Field, string>> = {};
  #content: UploadForm["content"] | null = null;
  #waiting: Uint8Array[] = [];
  #fault: AppError | null = null;
  #isDone = false;

  /** What the next part's bytes are given to; null ends it. */
  begin(disposition: string, type: string): (chunk: Uint8Array | null) => void {
    const { type: kind, parameters } = parseDisposition(disposition, { multipart: true });
    const { name, filename } = parameters;
    if (kind !== "form-data" || name === undefined) this.fail(malformed("a part has no name"));
    if (name === "content") return this.#beginContent(filename, type);
    const field = FIELDS.find((each) => each === name);
    return field === undefined ? () => undefined : this.#beginField(field);
  }

  #beginContent(filename: string | undefined, type: string): (chunk: Uint8Array | null) => void {
    if (this.#content !== null) this.fail(invalidForm("Send one file a request: `content` came twice."));
    if (filename === undefined) {
      this.fail(invalidForm("`content` is to be a file, with a file name: with curl, `-F content=@path`."));
    }
    this.#content = { filename: filename ?? "", type };
    return (chunk) => {
      if (chunk !== null) this.#waiting.push(chunk);
    };
  }

  #beginField(field: Field): (chunk: Uint8Array | null) => void {
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    return (chunk) => {
      bytes += chunk?.length ?? 0;
      if (bytes > FIELD_BYTES_MAX) this.fail(invalidForm(`\`${field}\` has more than ${FIELD_BYTES_MAX} bytes.`));
      else if (chunk !== null) chunks.push(chunk);
      else this.#setField(field, Buffer.concat(chunks));
    };
  }

  #setField(field: Field, bytes: Uint8Array): void {
    try {
      this.#fields[field] = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes);
    } catch {
      this.fail(invalidForm(`\`${field}\` is not UTF-8 text.`));
    }
  }

  takeContent(): Uint8Array[] {
    return this.#waiting.splice(0);
  }

  /** The first fault is the one that counts. */
  fail(fault: AppError): void {
    this.#fault ??= fault;
  }

  check(): void {
    if (this.#fault !== null) throw this.#fault;
  }

  end(): void {
    this.#isDone = true;
  }

  result(): UploadForm {
    this.check();
    if (!this.#isDone) throw malformed("it ended before its last boundary");
    if (this.#content === null) {
      throw invalidForm("There is no file: send it in a part named `content`. With curl, `-F content=@path`.");
    }
    return { content: this.#content, fields: this.#fields };
  }
}

/** A header's value; the parser keeps the space in front where it was cut just before. */
function headerText(header: string | string[] | undefined): string {
  return String(header ?? "").trim();
}

async function read(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<ReadableStreamReadResult<Uint8Array>> {
  try {
    return await reader.read();
  } catch (error) {
    throw new AppError("request.malformed", "The body ended too early.", { cause: error });
  }
}

function joined(held: Uint8Array, bytes: Uint8Array): Uint8Array {
  return held.length === 0 ? bytes : Buffer.concat([held, bytes]);
}

function malformed(reason: string): AppError {
  return new AppError("request.malformed", `The multipart/form-data body cannot be read: ${reason}.`);
}

function invalidForm(detail: string): AppError {
  return new AppError("file.invalid", detail);
}

function reasonOf(error: MultipartError): string {
  switch (error._tag) {
    case "InvalidBoundary":
      return "it has no boundary";
    case "BadHeaders":
      return `the headers of a part are wrong (${error.error.reason})`;
    case "InvalidDisposition":
      return "a part has no name";
    case "ReachedLimit":
      return `it has more than ${PARTS_MAX} parts`;
    case "EndNotReached":
      return "it ended before its last boundary";
  }
}
