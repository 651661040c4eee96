import { Tabs } from "@cloudflare/kumo/components/tabs";
import { useState } from "react";
import { LANGUAGES, type Language, type SnippetRequest, snippet } from "../snippets.ts";
import { CopyButton } from "./copy-button.tsx";
import { ScrollBox } from "./scroll-box.tsx";

const NAMES: Record<Language, string> = { curl: "curl", javascript: "JavaScript", python: "Python" };
const NOTES: Record<Language, string> = {
  curl: "",
  javascript: "npm install replicate",
  python: "pip install replicate",
};

export function CodeSnippets({ request }: { request: SnippetRequest }) {
  const [language, setLanguage] = useState<Language>("curl");
  const code = snippet(language, request);
  return (
    <div className="snippets">
      <div className="snippets-head">
        <Tabs
          size="sm"
          tabs={LANGUAGES.map((value) => ({ value, label: NAMES[value] }))}
          value={language}
          onValueChange={(value) => setLanguage(LANGUAGES.find((one) => one === value) ?? "curl")}
        />
        <CopyButton text={code} />
      </div>
      <ScrollBox label={`${NAMES[language]} code`}>{code}</ScrollBox>
      <p className="muted">
        Put your token in <code>COGWAY_TOKEN</code>.
        {NOTES[language] === "" ? null : (
          <>
            {" "}
            First: <code>{NOTES[language]}</code>
          </>
        )}
      </p>
    </div>
  );
}
