import { type ReactNode, useEffect, useRef } from "react";

/** As near to the end counts as at the end. */
const END_PX = 24;

/** Text that scrolls in its own box. The box takes the focus, so that a keyboard can scroll it. `isGrowing`: it stays at its end, unless it was scrolled away. */
export function ScrollBox({
  label,
  isGrowing = false,
  children,
}: {
  label: string;
  isGrowing?: boolean;
  children: ReactNode;
}) {
  const box = useRef<HTMLElement>(null);
  const isAtEnd = useRef(true);
  // biome-ignore lint/correctness/useExhaustiveDependencies: new text is what it scrolls for.
  useEffect(() => {
    if (isGrowing && isAtEnd.current && box.current !== null) box.current.scrollTop = box.current.scrollHeight;
  }, [isGrowing, children]);
  const onScroll = () => {
    if (box.current === null) return;
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    isAtEnd.current = scrollHeight - scrollTop - clientHeight <= END_PX;
  };
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: without focus a keyboard could not scroll it.
    <section className="scroll-box" aria-label={label} tabIndex={0} ref={box} onScroll={onScroll}>
      <pre>{children}</pre>
    </section>
  );
}
