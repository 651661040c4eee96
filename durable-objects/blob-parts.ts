/**
 * Where the bytes of the registry's blobs lie in R2. A small blob is one object; a larger one is several, all of PART_BYTES but the last, each written whole
 * and once. They are not put together by a multipart upload of R2, as that wants equal parts of 5 MiB at least, cannot read what it has before its end, and
 * reading its result is what the local R2 does slowest (measured: 35 MB/s, against 600 MB/s of single objects).
 *
 * Everything that one request writes lies below a prefix of its own, so that a request which lost its upload never writes over what another one wrote.
 */

/** The most that is held of a body. */
export const PART_BYTES = 8_388_608;
/** Parts of a blob, each one call of R2: 80 GiB. */
export const PARTS_MAX = 10_000;

/** So many parts that the request with this lease wrote, one behind the other. */
export type Run = [lease: number, parts: number];

export interface BlobBytes {
  /** of the only object, or what the prefixes of all begin with */
  key: string;
  size_bytes: number;
  /** null where it is one object */
  runs: Run[] | null;
}

export function leasePrefix(key: string, lease: number): string {
  return `${key}/${lease}/`;
}

/** `n`: of the whole blob, from 0. */
export function partKey(key: string, lease: number, n: number): string {
  return `${leasePrefix(key, lease)}${n}`;
}

/** Of the bytes behind the last part. */
export function tailKey(key: string, lease: number): string {
  return `${leasePrefix(key, lease)}tail`;
}

export function countParts(runs: Run[]): number {
  return runs.reduce((sum, [, parts]) => sum + parts, 0);
}

/** The runs with `parts` more, by this lease. */
export function addParts(runs: Run[], lease: number, parts: number): Run[] {
  return parts === 0 ? runs : [...runs, [lease, parts]];
}

/** All its objects, in order. */
export function objectKeys({ key, runs }: Pick<BlobBytes, "key" | "runs">): string[] {
  if (runs === null) return [key];
  let n = 0;
  return runs.flatMap(([lease, parts]) => Array.from({ length: parts }, () => partKey(key, lease, n++)));
}

/** The bytes of a range; null when they are gone. Only the objects that hold some of it are read, one after another. */
export async function openBlob(
  files: R2Bucket,
  blob: BlobBytes,
  range: { offset: number; length: number } = { offset: 0, length: blob.size_bytes },
): Promise<ReadableStream | null> {
  if (blob.runs === null || range.length === 0) {
    const isWhole = range.length === blob.size_bytes;
    return (await files.get(objectKeys(blob)[0] ?? "", isWhole ? {} : { range }))?.body ?? null;
  }
  const keys = objectKeys(blob);
  const read = async (n: number): Promise<R2ObjectBody | null> => {
    const from = Math.max(range.offset - n * PART_BYTES, 0);
    const to = Math.min(range.offset + range.length - n * PART_BYTES, PART_BYTES);
    const isWhole = from === 0 && to === PART_BYTES;
    return files.get(keys[n] ?? "", isWhole ? {} : { range: { offset: from, length: to - from } });
  };
  const first = Math.floor(range.offset / PART_BYTES);
  const last = Math.floor((range.offset + range.length - 1) / PART_BYTES);
  const opened = await read(first);
  if (opened === null || first === last) return opened?.body ?? null;
  const { readable, writable } = new FixedLengthStream(range.length);
  const pump = async (): Promise<void> => {
    await opened.body.pipeTo(writable, { preventClose: true });
    for (let n = first + 1; n <= last; n++) {
      const part = await read(n);
      if (part === null) throw new Error(`a part of a blob is gone: ${keys[n]}`);
      await part.body.pipeTo(writable, { preventClose: true });
    }
    await writable.close();
  };
  // Who reads sees that it broke off; a reader that left is no fault.
  pump().catch((error: unknown) => writable.abort(error).catch(() => undefined));
  return readable;
}
