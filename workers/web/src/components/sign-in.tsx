/** Asks for a token when there is none, or when the one there was is refused. */
import { Button } from "@cloudflare/kumo/components/button";
import { Input } from "@cloudflare/kumo/components/input";
import { type FormEvent, useId, useState } from "react";
import { Mark } from "./page-head.tsx";

export function SignIn({ wasRefused, onToken }: { wasRefused: boolean; onToken: (token: string) => void }) {
  const [token, setToken] = useState("");
  const id = useId();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    // What is pasted may be the whole link.
    const pasted = /token=([^&\s]+)/.exec(token)?.[1] ?? token.trim();
    if (pasted !== "") onToken(pasted);
  };
  return (
    <main id="main" className="sign-in">
      <form onSubmit={submit}>
        <Mark />
        <h1>Sign in to Cogway</h1>
        <p className="muted">
          Open the link that <code>npm start</code> prints, or paste your token here. It stays in this browser.
        </p>
        {wasRefused ? (
          <p className="member-error" role="alert">
            The token was not accepted. It may be mistyped, expired or revoked.
          </p>
        ) : null}
        <label htmlFor={id} id={`${id}-label`} className="member-label">
          Token
        </label>
        <Input
          id={id}
          aria-labelledby={`${id}-label`}
          className="control"
          size="lg"
          type="password"
          autoComplete="current-password"
          placeholder="cw_…"
          value={token}
          onChange={(event) => setToken(event.target.value)}
        />
        <Button type="submit" className="plain-button" variant="primary" size="lg" disabled={token.trim() === ""}>
          Sign in
        </Button>
      </form>
    </main>
  );
}
