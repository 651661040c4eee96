/** How to push, where nothing was pushed yet. */
import type { ReactNode } from "react";
import { pushLines } from "../push-lines.ts";
import { CopyButton } from "./copy-button.tsx";
import { ScrollBox } from "./scroll-box.tsx";

export function PushGuide({ model, title, children }: { model: string; title: string; children: ReactNode }) {
  const lines = pushLines(location.origin, model);
  return (
    <section className="panel push-guide" aria-label={title}>
      <div className="panel-head">
        <h2>{title}</h2>
        <CopyButton text={lines} label="Copy lines" />
      </div>
      <div className="panel-body">
        <p className="muted">{children}</p>
        <ScrollBox label="Lines for a shell">{lines}</ScrollBox>
        <p className="muted">
          <code>my-model</code> is a folder with a <code>cog.yaml</code>. <a href="/docs/push">How to push</a>, from the
          first line on.
        </p>
      </div>
    </section>
  );
}
