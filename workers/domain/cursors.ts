/** Page cursors: opaque to callers, base64url of JSON. They hold positions, no data, so a foreign or forged one opens nothing. Pure. */
import type { z } from "zod";
import { AppError } from "../../schema/problems.ts";

export function encodeCursor(position: unknown): string {
  return Buffer.from(JSON.stringify(position)).toString("base64url");
}

/** Null when there is none; a problem when it is not one of ours. */
export function decodeCursor<T>(cursor: string | undefined, schema: z.ZodType<T>): T | null {
  if (cursor === undefined) return null;
  try {
    return schema.parse(JSON.parse(Buffer.from(cursor, "base64url").toString()));
  } catch {
    throw new AppError(
      "request.malformed",
      "The cursor is not valid. Use the URLs in `next` and `previous` as they are.",
    );
  }
}

/** Absolute URL of another page: the same request with another cursor. Null stands for no such page. */
export function pageUrl(
  publicUrl: string,
  path: string,
  query: Record<string, string | undefined>,
  position: unknown,
): string | null {
  if (position === null) return null;
  const parameters = Object.entries(query).flatMap(([name, value]): [string, string][] =>
    value === undefined || name === "cursor" ? [] : [[name, value]],
  );
  return `${publicUrl}${path}?${new URLSearchParams([...parameters, ["cursor", encodeCursor(position)]])}`;
}

/** Where a page lies: the rows `after` another one in the list's order, or those `before` it. */
export type Side = "after" | "before";

/**
 * One page of rows and what lies around it. Cursors name rows, not numbers of rows: what is added or removed elsewhere moves nothing.
 * `read` holds one row more than fits where there are more, read away from the cursor.
 */
export function keysetPage<T, P extends object>(
  read: T[],
  rowsMax: number,
  side: Side | undefined,
  positionOf: (row: T) => P,
): { rows: T[]; next: (P & { side: Side }) | null; previous: (P & { side: Side }) | null } {
  const more = read.length > rowsMax;
  const rows = read.slice(0, rowsMax);
  if (side === "before") rows.reverse();
  const first = rows[0];
  const last = rows.at(-1);
  const hasNext = side === "before" || more;
  const hasPrevious = side === "before" ? more : side === "after";
  return {
    rows,
    next: hasNext && last !== undefined ? { ...positionOf(last), side: "after" } : null,
    previous: hasPrevious && first !== undefined ? { ...positionOf(first), side: "before" } : null,
  };
}
