/**
 * The caller's own files where a URL is expected: `urls.get` of a file object, as clients put it into inputs, or its `urls.download`. They are read with the
 * caller's rights: of another account's file nobody learns whether it is there.
 */
import { accountStub } from "../../durable-objects/stubs.ts";
import { downloadPath, FILE_RETENTION_MS, fileKey, ownFileId } from "../../schema/files.ts";
import { isFileId } from "../../schema/ids.ts";
import type { InvalidField } from "../../schema/problems.ts";
import type { Caller, Edge } from "../env.ts";
import { invalidInput } from "./validate-input.ts";

type Reader = Pick<Caller, "account_id" | "scopes">;
/** An input that passed its schema: a prediction's, or one of a batch. */
interface CheckedInput {
  input: Record<string, unknown>;
  /** null when it is shown as it is */
  shown_input: Record<string, unknown> | null;
}

/** The bytes of the own file that `url` names; null when it is another address. Throws a problem that names `field` when the file is not there. */
export async function openOwnFile(
  edge: Edge,
  caller: Reader,
  url: string,
  field: string,
): Promise<ReadableStream<Uint8Array> | null> {
  const id = ownFileId(url, edge.settings.publicUrl, caller.account_id);
  if (id === null) return null;
  const file = mayBeRead(edge, caller, id) ? await accountStub(edge.env, caller.account_id).file(id) : null;
  const stored = file === null ? null : await edge.env.FILES.get(fileKey(id));
  if (stored === null) throw invalidInput([missingFile(caller, field)]);
  return stored.body;
}

/**
 * Checked inputs, ready for an origin: every text that is exactly the address of an own file becomes a signed one, which works for `lifeMs`, and the files
 * are kept as long. What is shown stays as it was given. An input that names a file which is not there comes back as its faults.
 */
export async function resolveOwnFiles<T extends CheckedInput>(
  edge: Edge,
  caller: Reader,
  inputs: T[],
  lifeMs = FILE_RETENTION_MS,
): Promise<(T | { faults: InvalidField[] })[]> {
  const named = inputs.map(({ input }) => ownFilesIn(edge, caller, input));
  if (named.every((files) => files.length === 0)) return inputs;
  const ids = [...new Set(named.flat().map(({ id }) => id))].filter((id) => mayBeRead(edge, caller, id));
  const until = Date.now() + lifeMs;
  const found = new Set(ids.length === 0 ? [] : await accountStub(edge.env, caller.account_id).keepFiles(ids, until));
  return inputs.map((given, i) => {
    const files = named[i] ?? [];
    if (files.length === 0) return given;
    const missing = files.filter(({ id }) => !found.has(id));
    if (missing.length > 0) return { faults: missing.map(({ field }) => missingFile(caller, field)) };
    const { publicUrl, signingSecret } = edge.settings;
    const signed = new Map(
      files.map(({ url, id }) => [url, publicUrl + downloadPath(signingSecret, caller.account_id, id, until)]),
    );
    const input = mapTexts(given.input, (text) => signed.get(text) ?? text) as Record<string, unknown>;
    return { ...given, input, shown_input: given.shown_input ?? given.input };
  });
}

/** The same of one input. Throws `input.invalid` naming every field whose file is not there. */
export async function resolveInput<T extends CheckedInput>(edge: Edge, caller: Reader, input: T): Promise<T> {
  const [resolved = input] = await resolveOwnFiles(edge, caller, [input]);
  if ("faults" in resolved) throw invalidInput(resolved.faults);
  return resolved;
}

function missingFile({ scopes }: Reader, field: string): InvalidField {
  const description = scopes.includes("files:read")
    ? "This file does not exist, has expired or is not yours: upload it again"
    : "This token may not read files: it lacks the scope files:read";
  return { type: "file_not_found", field, description };
}

function mayBeRead(edge: Edge, { scopes }: Reader, id: string): boolean {
  return scopes.includes("files:read") && isFileId(id, edge.settings.signingSecret);
}

interface NamedFile {
  /** dotted, from `input` on */
  field: string;
  url: string;
  id: string;
}

/** Every text in an input, at any depth, that is the address of an own file. */
function ownFilesIn(edge: Edge, caller: Reader, input: Record<string, unknown>): NamedFile[] {
  const found: NamedFile[] = [];
  const path = ["input"];
  const visit = (value: unknown): void => {
    if (typeof value === "string") {
      const id = ownFileId(value, edge.settings.publicUrl, caller.account_id);
      if (id !== null) found.push({ field: path.join("."), url: value, id });
    } else if (typeof value === "object" && value !== null) {
      for (const name in value) {
        path.push(name);
        visit((value as Record<string, unknown>)[name]);
        path.pop();
      }
    }
  };
  visit(input);
  return found;
}

function mapTexts(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === "string") return change(value);
  if (Array.isArray(value)) return value.map((item) => mapTexts(item, change));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, mapTexts(member, change)]));
}
