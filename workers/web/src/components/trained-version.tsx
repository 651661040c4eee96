/** What a training made: a version of a model, and its weights. */
import { ArrowRightIcon, DownloadSimpleIcon } from "@phosphor-icons/react";
import { ownOrigin } from "../api.ts";
import { isObject } from "../output/classify.ts";
import { OutputView } from "../output/output-view.tsx";
import { versionPath } from "../route.ts";
import { Link } from "../router.tsx";

/** The version in a training's output, as `owner/name:id`. */
export function versionMade(output: unknown): { model: string; id: string } | null {
  const [model, id, ...more] = isObject(output) ? String(output["version"] ?? "").split(":") : [];
  return model === undefined || id === undefined || more.length > 0 ? null : { model, id };
}

export function TrainedVersion({ output }: { output: unknown }) {
  const made = versionMade(output);
  if (made === null) return <OutputView value={output} />;
  const weights = isObject(output) ? output["weights"] : undefined;
  const [owner = "", name = ""] = made.model.split("/");
  return (
    <div className="trained">
      <p className="muted">A new version of</p>
      <p className="trained-model">{made.model}</p>
      <p className="mono trained-version">{made.id}</p>
      <p className="trained-links">
        <Link href={versionPath({ owner, name }, made.id)}>
          Run it <ArrowRightIcon aria-hidden />
        </Link>
        {typeof weights === "string" ? (
          <a href={ownOrigin(weights)} download className="quiet-link">
            <DownloadSimpleIcon aria-hidden /> Its weights
          </a>
        ) : null}
      </p>
    </div>
  );
}
