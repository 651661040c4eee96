/** What a search found: models, collections and pages of the docs, and how it looked for them. */
import { Empty } from "@cloudflare/kumo/components/empty";
import { Loader } from "@cloudflare/kumo/components/loader";
import { BookOpenIcon, MagnifyingGlassIcon } from "@phosphor-icons/react";
import { useEffect, useState } from "react";
import { ownOrigin, type SearchResult } from "../api.ts";
import { count } from "../format.ts";
import { useApi, useLoaded } from "../hooks.ts";
import { collectionPath } from "../route.ts";
import { Link } from "../router.tsx";
import { ExplainedError } from "./explained.tsx";
import { ModelGrid } from "./model-groups.tsx";

export function SearchResults({ query }: { query: string }) {
  const api = useApi();
  const found = useLoaded(`search ${query}`, () => api.search(query));
  // What was found before stands until the next answer comes.
  const [last, setLast] = useState<SearchResult>();
  useEffect(() => {
    if (found.data !== undefined) setLast(found.data);
  }, [found.data]);
  const shown = found.data ?? last;
  if (found.error !== undefined) return <ExplainedError error={found.error} onRetry={found.reload} />;
  if (shown === undefined) {
    return (
      <p className="loading">
        <Loader size="sm" /> Searching
      </p>
    );
  }
  const isEmpty = shown.models.length + shown.collections.length + shown.pages.length === 0;
  return (
    <div className="search-results" aria-busy={found.data === undefined}>
      <p className="search-note muted" role="status">
        {isEmpty ? "Nothing was found. " : `${inWords(shown)}. `}
        {shown.mode === "text" ? "Searched by words only: the model that compares meanings is not ready. " : ""}
        {shown.is_complete ? "" : "The index is still being made, so there may be more. "}
      </p>
      {isEmpty ? (
        <Empty
          icon={<MagnifyingGlassIcon size={40} aria-hidden />}
          title={`Nothing matches “${shown.query}”`}
          description="Try other words, or describe what goes in and what shall come out."
          contents={
            <Link href="/" className="quiet-link">
              See all models
            </Link>
          }
        />
      ) : null}
      {shown.models.length === 0 ? null : <ModelGrid models={shown.models.map(({ model }) => model)} />}
      {shown.collections.length === 0 ? null : (
        <section className="search-others" aria-labelledby="found-collections">
          <h2 id="found-collections">Collections</h2>
          <ul>
            {shown.collections.map(({ slug, name, description }) => (
              <li key={slug}>
                <Link href={collectionPath(slug)}>{name}</Link> <span className="muted">{description}</span>
              </li>
            ))}
          </ul>
        </section>
      )}
      {shown.pages.length === 0 ? null : (
        <section className="search-others" aria-labelledby="found-pages">
          <h2 id="found-pages">Docs</h2>
          <ul>
            {shown.pages.map(({ name, href }) => (
              <li key={href}>
                <a href={ownOrigin(href)}>
                  <BookOpenIcon aria-hidden /> {name}
                </a>
              </li>
            ))}
          </ul>
        </section>
      )}
    </div>
  );
}

function inWords({ models, collections, pages }: SearchResult): string {
  const kinds = [
    models.length === 0 ? null : count(models.length, "model", "models"),
    collections.length === 0 ? null : count(collections.length, "collection", "collections"),
    pages.length === 0 ? null : count(pages.length, "page of the docs", "pages of the docs"),
  ];
  return kinds.filter((kind) => kind !== null).join(", ");
}
