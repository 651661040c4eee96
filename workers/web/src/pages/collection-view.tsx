/** One collection: what it is for, and its models. */
import { Loader } from "@cloudflare/kumo/components/loader";
import { ExplainedError } from "../components/explained.tsx";
import { Markdown } from "../components/markdown.tsx";
import { ModelGrid } from "../components/model-groups.tsx";
import { useApi, useLoaded } from "../hooks.ts";
import { Link } from "../router.tsx";
import { useTitle } from "../use-title.ts";

export default function CollectionView({ slug }: { slug: string }) {
  const api = useApi();
  const collection = useLoaded(`collection ${slug}`, () => api.collection(slug));
  useTitle(collection.data?.name ?? "Collection");
  if (collection.data === undefined) {
    return collection.error === undefined ? (
      <p className="loading">
        <Loader size="sm" /> Loading the collection
      </p>
    ) : (
      <ExplainedError error={collection.error} onRetry={collection.reload} />
    );
  }
  const { name, description, full_description, models } = collection.data;
  return (
    <>
      <p className="crumbs">
        <Link href="/">Models</Link>
      </p>
      <h1>{name}</h1>
      <p className="lede">{description}</p>
      <ModelGrid models={models} />
      {full_description === null ? null : (
        <section className="readme" aria-label="About this collection">
          <Markdown text={full_description} />
        </section>
      )}
    </>
  );
}
