/** Signed in or not, and which page. */
import { lazy, Suspense, useCallback, useEffect, useMemo, useState } from "react";
import { createApi } from "./api.ts";
import { PageHead } from "./components/page-head.tsx";
import { SignIn } from "./components/sign-in.tsx";
import { ApiContext, useApi, useLoaded } from "./hooks.ts";
import { HomePage } from "./pages/home-page.tsx";
import { PredictionsPage } from "./pages/predictions-page.tsx";
import { RunPage } from "./pages/run-page.tsx";
import { type Route, routeOf } from "./route.ts";
import { Link, usePathname } from "./router.tsx";
import { forgetToken, onTokenChanged, readToken, saveToken, signInFromAddress } from "./session.ts";

// The form's library is the largest part of the page, and lists need none of it.
const BillingPage = lazy(() => import("./pages/billing-page.tsx"));
const InvoicePage = lazy(() => import("./pages/invoice-page.tsx"));
const StatusPage = lazy(() => import("./pages/status-page.tsx"));
const ModelPage = lazy(() => import("./pages/model-page.tsx"));

signInFromAddress();

export function App() {
  const [token, setToken] = useState(readToken);
  const [wasRefused, setRefused] = useState(false);
  const signOut = useCallback((refused: boolean) => {
    forgetToken();
    setToken(null);
    setRefused(refused);
  }, []);
  const signIn = (given: string) => {
    saveToken(given);
    setRefused(false);
    setToken(given);
  };
  useEffect(() => {
    const fromAddress = () => {
      signInFromAddress();
      setToken(readToken());
    };
    // The printed link may be opened in a tab that shows the page already.
    addEventListener("hashchange", fromAddress);
    const stop = onTokenChanged(() => setToken(readToken()));
    return () => {
      removeEventListener("hashchange", fromAddress);
      stop();
    };
  }, []);
  const api = useMemo(() => (token === null ? null : createApi(token, () => signOut(true))), [token, signOut]);
  if (api === null) {
    return (
      <>
        <PageHead account={undefined} onSignOut={null} />
        <SignIn wasRefused={wasRefused} onToken={signIn} />
      </>
    );
  }
  return (
    <ApiContext value={api}>
      <SignedIn onSignOut={() => signOut(false)} />
    </ApiContext>
  );
}

function SignedIn({ onSignOut }: { onSignOut: () => void }) {
  const api = useApi();
  const account = useLoaded("account", api.account);
  const route = routeOf(usePathname());
  return (
    <>
      <PageHead account={account.data} onSignOut={onSignOut} />
      <main id="main" tabIndex={-1}>
        <Page route={route} />
      </main>
    </>
  );
}

function Page({ route }: { route: Route }) {
  switch (route.page) {
    case "home":
      return <HomePage />;
    case "predictions":
      return <PredictionsPage />;
    case "prediction":
      return <RunPage key={route.id} id={route.id} />;
    case "model":
      return (
        <Suspense fallback={null}>
          <ModelPage key={`${route.owner}/${route.name}`} owner={route.owner} name={route.name} />
        </Suspense>
      );
    case "billing":
      return (
        <Suspense fallback={null}>
          <BillingPage />
        </Suspense>
      );
    case "invoice":
      return (
        <Suspense fallback={null}>
          <InvoicePage key={route.month} month={route.month} />
        </Suspense>
      );
    case "status":
      return (
        <Suspense fallback={null}>
          <StatusPage />
        </Suspense>
      );
    case "not-found":
      return (
        <>
          <h1>There is no such page</h1>
          <p className="lede">
            The address may be mistyped. <Link href="/">See the models</Link>
          </p>
        </>
      );
  }
}
