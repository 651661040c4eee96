/** A model's versions, newest first; where the reader's own training made one, a link to it. */
import type { Model, Prediction } from "../api.ts";
import { dateTime } from "../format.ts";
import { fullName } from "../group-models.ts";
import { useApi, useLoaded } from "../hooks.ts";
import { predictionPath, versionPath } from "../route.ts";
import { Link } from "../router.tsx";
import { versionMade } from "./trained-version.tsx";

export function VersionTable({ model }: { model: Model }) {
  const api = useApi();
  const name = fullName(model);
  const versions = useLoaded(`versions ${name}`, () => api.versions(model.owner, model.name));
  const trainings = useLoaded("trainings", () => api.trainings());
  const rows = versions.data?.results ?? [];
  if (rows.length === 0) return null;
  const madeBy = trainingsByVersion(name, trainings.data?.results ?? []);
  return (
    <section className="versions" aria-labelledby="versions">
      <h2 id="versions">Versions</h2>
      <div className="table-scroll">
        <table>
          <thead>
            <tr>
              <th scope="col">Version</th>
              <th scope="col">Made</th>
              <th scope="col">By</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((version) => {
              const training = madeBy.get(version.id);
              return (
                <tr key={version.id}>
                  <td>
                    <Link href={versionPath(model, version.id)} className="mono" title={version.id}>
                      {version.id.slice(0, 12)}
                    </Link>
                    {version.id === model.latest_version?.id ? <span className="muted"> latest</span> : null}
                  </td>
                  <td>{dateTime(version.created_at)}</td>
                  <td>
                    {training === undefined ? (
                      `Cog ${version.cog_version}`
                    ) : (
                      <Link href={predictionPath(training.id)}>Training {training.id.slice(0, 8)}</Link>
                    )}
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
    </section>
  );
}

/** By id of the version, of one model. */
function trainingsByVersion(model: string, trainings: Prediction[]): Map<string, Prediction> {
  return new Map(
    trainings.flatMap((training) => {
      const made = versionMade(training.output);
      return made?.model === model ? [[made.id, training] as const] : [];
    }),
  );
}
