/** Models as cards: in one grid, or by collection. */
import type { Collection, Model } from "../api.ts";
import { fullName, groupModels } from "../group-models.ts";
import { collectionPath } from "../route.ts";
import { Link } from "../router.tsx";
import { ModelCard } from "./model-card.tsx";

export function ModelGrid({ models }: { models: Model[] }) {
  return (
    <ul className="model-grid">
      {models.map((model) => (
        <ModelCard key={fullName(model)} model={model} />
      ))}
    </ul>
  );
}

/** Columns of cards on the widest screen: a group of fewer models stands beside another. */
const COLUMNS = 3;

export function ModelGroupsView({ models, collections }: { models: Model[]; collections: Collection[] }) {
  const { groups, privates, rest } = groupModels(models, collections);
  return (
    <div className="model-groups">
      {groups.map(({ collection, models: members }) => (
        <Group key={collection.slug} id={`collection-${collection.slug}`} models={members}>
          <h2 id={`collection-${collection.slug}`}>
            <Link href={collectionPath(collection.slug)}>{collection.name}</Link>
          </h2>
          <p className="muted">{collection.description}</p>
        </Group>
      ))}
      {privates.length === 0 ? null : (
        <Group id="private-models" models={privates}>
          <h2 id="private-models">Your private models</h2>
        </Group>
      )}
      {rest.length === 0 ? null : (
        <Group id="more-models" models={rest}>
          <h2 id="more-models">More models</h2>
        </Group>
      )}
    </div>
  );
}

function Group({ id, models, children }: { id: string; models: Model[]; children: React.ReactNode }) {
  return (
    <section className="model-group" aria-labelledby={id} data-columns={Math.min(COLUMNS, models.length)}>
      <div className="model-group-head">{children}</div>
      <ul>
        {models.map((model) => (
          <ModelCard key={fullName(model)} model={model} />
        ))}
      </ul>
    </section>
  );
}
