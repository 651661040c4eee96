import type { ReactNode } from "react";

/** Text that scrolls in its own box. The box takes the focus, so that a keyboard can scroll it. */
export function ScrollBox({ label, children }: { label: string; children: ReactNode }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: without focus a keyboard could not scroll it.
    <section className="scroll-box" aria-label={label} tabIndex={0}>
      <pre>{children}</pre>
    </section>
  );
}
