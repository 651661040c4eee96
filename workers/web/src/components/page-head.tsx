/** The bar on top of every page. */
import { Button } from "@cloudflare/kumo/components/button";
import { SignOutIcon } from "@phosphor-icons/react";
import type { Account } from "../api.ts";
import { BILLING_PATH, PREDICTIONS_PATH, STATUS_PATH } from "../route.ts";
import { Link, usePathname } from "../router.tsx";

export function Mark() {
  return (
    <svg className="mark" viewBox="0 0 32 32" aria-hidden="true">
      <path d="M25.6 8.6A11.6 11.6 0 1 0 25.6 23.4" />
      <path d="M21.4 12.2A6 6 0 1 0 21.4 19.8" strokeDasharray="3.1 3.4" />
    </svg>
  );
}

export function PageHead({ account, onSignOut }: { account: Account | undefined; onSignOut: (() => void) | null }) {
  const path = usePathname();
  const here = (href: string) => (path === href ? ({ "aria-current": "page" } as const) : {});
  return (
    <header className="page-head">
      <a className="skip-link" href="#main">
        Skip to the content
      </a>
      <Link href="/" className="wordmark" aria-label="Cogway, start">
        <Mark />
        <span>Cogway</span>
      </Link>
      {onSignOut === null ? null : (
        <>
          <nav aria-label="Main">
            <Link href="/" {...here("/")}>
              Models
            </Link>
            <Link href={PREDICTIONS_PATH} {...here(PREDICTIONS_PATH)}>
              Predictions
            </Link>
            <Link href={BILLING_PATH} {...here(BILLING_PATH)}>
              Billing
            </Link>
            <Link href={STATUS_PATH} {...here(STATUS_PATH)}>
              Status
            </Link>
            <a href="/docs">API</a>
          </nav>
          <div className="page-head-account">
            {account === undefined ? null : <span title={account.name}>{account.username}</span>}
            <Button
              variant="ghost"
              shape="square"
              icon={SignOutIcon}
              aria-label="Sign out"
              title="Sign out"
              onClick={onSignOut}
            />
          </div>
        </>
      )}
    </header>
  );
}
