/** Moves between the page's addresses (route.ts) without a reload. */
import { type AnchorHTMLAttributes, type MouseEvent, useSyncExternalStore } from "react";

const listeners = new Set<() => void>();
const changed = () => {
  for (const listener of listeners) listener();
};
addEventListener("popstate", changed);

export function navigate(path: string): void {
  history.pushState(null, "", path);
  scrollTo(0, 0);
  changed();
  // As on a page that was loaded anew: the keyboard goes on from the content, and a screen reader reads it.
  document.getElementById("main")?.focus({ preventScroll: true });
}

/** Another address for what is on the screen, such as a search that is being typed: no new entry in the history, and the focus stays. */
export function replaceAddress(path: string): void {
  history.replaceState(history.state, "", path);
  changed();
}

function subscribe(listener: () => void) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function usePathname(): string {
  return useSyncExternalStore(subscribe, () => location.pathname);
}

export function useSearch(): string {
  return useSyncExternalStore(subscribe, () => location.search);
}

/** A link within the page: no reload, while new tabs and copied addresses work as ever. */
export function Link({ href, onClick, ...rest }: AnchorHTMLAttributes<HTMLAnchorElement> & { href: string }) {
  const follow = (event: MouseEvent<HTMLAnchorElement>) => {
    onClick?.(event);
    if (
      event.defaultPrevented ||
      event.button !== 0 ||
      event.metaKey ||
      event.ctrlKey ||
      event.shiftKey ||
      event.altKey
    )
      return;
    event.preventDefault();
    navigate(href);
  };
  return <a href={href} onClick={follow} {...rest} />;
}
