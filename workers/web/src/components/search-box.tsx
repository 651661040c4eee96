/** Where a task is described. What is typed goes into the address, so that a search can be shared and gone back to. */
import { Input } from "@cloudflare/kumo/components/input";
import { MagnifyingGlassIcon } from "@phosphor-icons/react";
import { useEffect, useState } from "react";
import { searchPath } from "../route.ts";
import { replaceAddress } from "../router.tsx";

/** Of typing: shorter pauses are between letters. */
const PAUSE_MS = 250;
/** As many as the server takes. */
const QUERY_CHARACTERS_MAX = 1_000;

export function SearchBox({ asked }: { asked: string }) {
  const [text, setText] = useState(asked);
  // The address changed by other means, such as a link or the way back; else what is typed stays as it is.
  useEffect(() => setText((typed) => (typed.trim() === asked ? typed : asked)), [asked]);
  useEffect(() => {
    const query = text.trim();
    if (query === asked) return;
    const timer = setTimeout(() => replaceAddress(searchPath(query)), PAUSE_MS);
    return () => clearTimeout(timer);
  }, [text, asked]);
  return (
    <search className="search">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          replaceAddress(searchPath(text.trim()));
        }}
      >
        <MagnifyingGlassIcon aria-hidden size={20} className="search-icon" />
        <Input
          type="search"
          className="control search-input"
          aria-label="Search models, collections and docs"
          placeholder="Such as: make my photo sharper"
          autoComplete="off"
          enterKeyHint="search"
          maxLength={QUERY_CHARACTERS_MAX}
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
      </form>
    </search>
  );
}
