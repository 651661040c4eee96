import { Button } from "@cloudflare/kumo/components/button";
import { CheckIcon, CopyIcon } from "@phosphor-icons/react";
import { useEffect, useState } from "react";

/** How long the button says that it copied. */
const SAID_MS = 1_500;

export function CopyButton({ text, label = "Copy" }: { text: string | (() => string); label?: string }) {
  const [state, setState] = useState<"idle" | "copied" | "refused">("idle");
  useEffect(() => {
    if (state === "idle") return;
    const timer = setTimeout(() => setState("idle"), SAID_MS);
    return () => clearTimeout(timer);
  }, [state]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(typeof text === "string" ? text : text());
      setState("copied");
    } catch {
      setState("refused");
    }
  };
  const said = { idle: label, copied: "Copied", refused: "Not allowed here" }[state];
  return (
    <Button
      type="button"
      size="sm"
      variant="ghost"
      icon={state === "copied" ? CheckIcon : CopyIcon}
      onClick={() => void copy()}
    >
      <span aria-live="polite">{said}</span>
    </Button>
  );
}
