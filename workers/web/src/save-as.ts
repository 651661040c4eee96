/** Gives a file to the browser to keep, where a link would not do: it was fetched with the token. */
export function saveAs(content: Blob, name: string): void {
  const url = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // The download has begun with the click; browsers read what it needs before the address goes.
  setTimeout(() => URL.revokeObjectURL(url), RELEASE_MS);
}

/** Slow disks included. */
const RELEASE_MS = 60_000;
