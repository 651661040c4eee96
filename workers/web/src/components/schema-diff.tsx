/** What is different between the schemas of two versions, for those who call them. */
import type { SchemaDiff } from "../api.ts";

const KINDS = [
  ["breaking", "Breaking"],
  ["added", "Added"],
  ["changed", "Changed"],
] as const;

export const isSame = (diff: SchemaDiff) => KINDS.every(([kind]) => diff[kind].length === 0);

/** `diff` null or without a version before: there is nothing to compare with. */
export function SchemaDiffView({ diff }: { diff: SchemaDiff | null }) {
  if (diff === null || diff.previous_version === null)
    return <p className="muted">The first version: there is none to compare it with.</p>;
  if (isSame(diff)) return <p className="muted">Its inputs and its output are as before.</p>;
  return (
    <ul className="schema-diff">
      {KINDS.flatMap(([kind, word]) =>
        diff[kind].map((line) => (
          <li key={`${kind} ${line}`} data-kind={kind}>
            <span className="schema-diff-kind">{word}</span>
            <span>{line}</span>
          </li>
        )),
      )}
    </ul>
  );
}
