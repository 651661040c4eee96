/** Kumo's components read their theme from `data-mode`; the reader's own setting decides it, also when it changes. */
export function followColorScheme(): void {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    document.documentElement.dataset.mode = dark.matches ? "dark" : "light";
  };
  apply();
  dark.addEventListener("change", apply);
}
