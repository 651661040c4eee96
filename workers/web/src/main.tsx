import "@cloudflare/kumo/styles/standalone";
import "@fontsource-variable/hanken-grotesk";
import "./styles/base.css";
import "./styles/layout.css";
import "./styles/models.css";
import "./styles/catalog.css";
import "./styles/predictions.css";
import "./styles/runs.css";
import "./styles/builds.css";
import "./styles/billing.css";
import "./styles/status.css";
import "./styles/form.css";
import "./styles/output.css";
import "./styles/plot.css";
import "./styles/prose.css";
import { CSPProvider } from "@cloudflare/kumo/primitives/csp-provider";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app.tsx";
import { followColorScheme } from "./color-scheme.ts";

followColorScheme();
const root = document.getElementById("root");
if (root === null) throw new Error("index.html has no #root");
createRoot(root).render(
  <StrictMode>
    {/* The page's policy allows no inline styles; the parts that components would inject are in styles/base.css. */}
    <CSPProvider disableStyleElements>
      <App />
    </CSPProvider>
  </StrictMode>,
);
