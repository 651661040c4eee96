import { CopyButton } from "./copy-button.tsx";
import { ScrollBox } from "./scroll-box.tsx";

export function Logs({ text, isOpen, isGrowing }: { text: string; isOpen: boolean; isGrowing: boolean }) {
  if (text === "") return null;
  const lines = text.replace(/\n$/, "").split("\n").length;
  return (
    <details className="logs" open={isOpen}>
      <summary>
        Logs <span className="muted">{lines === 1 ? "1 line" : `${lines.toLocaleString("en-US")} lines`}</span>
      </summary>
      <ScrollBox label="Logs" isGrowing={isGrowing}>
        {lastLineOfBars(text)}
      </ScrollBox>
      <CopyButton text={text} label="Copy logs" />
    </details>
  );
}

/** Progress bars rewrite their line with carriage returns; a terminal shows what came last. */
const lastLineOfBars = (text: string) => text.replace(/[^\n]*\r(?!\n)/g, "");
