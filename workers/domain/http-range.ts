/** Conditional and partial reads of one stored file (RFC 9110, sections 13 and 14). Pure. */

export type RangeResult =
  | { kind: "whole" }
  | { kind: "part"; offset: number; length: number }
  | { kind: "unsatisfiable" };

/** What of `size` bytes a `Range` header asks for. Several ranges, other units and what cannot be read are answered whole, as the RFC allows. */
export function parseRange(header: string | undefined, size: number): RangeResult {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec((header ?? "").replaceAll(/\s/g, ""));
  const [first, last] = [match?.[1] ?? "", match?.[2] ?? ""];
  if (first === "" && last === "") return { kind: "whole" };
  if (first === "") {
    const length = Math.min(Number(last), size);
    return length === 0 ? { kind: "unsatisfiable" } : { kind: "part", offset: size - length, length };
  }
  const offset = Number(first);
  const end = last === "" ? size - 1 : Math.min(Number(last), size - 1);
  if (last !== "" && Number(last) < offset) return { kind: "whole" };
  return offset >= size ? { kind: "unsatisfiable" } : { kind: "part", offset, length: end - offset + 1 };
}

/** Whether an `If-None-Match` header names this entity tag. */
export function matchesEtag(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  return header.split(",").some((part) => part.trim() === "*" || part.trim().replace(/^W\//, "") === etag);
}
