/** The token that this browser is signed in with. It is kept in localStorage, so that a prediction opened in a new tab is signed in too. */
const STORAGE_KEY = "cogway.token";

/** The token of a link such as `/#token=cw_…`, as `npm start` prints it; null for any other fragment. */
export function tokenOfHash(hash: string): string | null {
  const token = new URLSearchParams(hash.replace(/^#/, "")).get("token")?.trim();
  return token === undefined || token === "" ? null : token;
}

/** Takes the token out of the address at once, so that it is in no history entry, bookmark or copied link. */
export function signInFromAddress(): void {
  const token = tokenOfHash(location.hash);
  if (token === null) return;
  localStorage.setItem(STORAGE_KEY, token);
  history.replaceState(history.state, "", location.pathname + location.search);
}

export function readToken(): string | null {
  return localStorage.getItem(STORAGE_KEY);
}

export function saveToken(token: string): void {
  localStorage.setItem(STORAGE_KEY, token);
}

export function forgetToken(): void {
  localStorage.removeItem(STORAGE_KEY);
}

/** Tells of a sign-in or sign-out in another tab. Returns how to stop listening. */
export function onTokenChanged(listener: () => void): () => void {
  const onStorage = (event: StorageEvent) => {
    if (event.key === STORAGE_KEY || event.key === null) listener();
  };
  addEventListener("storage", onStorage);
  return () => removeEventListener("storage", onStorage);
}
