/** Makes another version of a model its latest, once the reader has seen what that changes. */
import { Button } from "@cloudflare/kumo/components/button";
import { Loader } from "@cloudflare/kumo/components/loader";
import { ArrowCounterClockwiseIcon } from "@phosphor-icons/react";
import { useState } from "react";
import type { Model, Version } from "../api.ts";
import { fullName } from "../group-models.ts";
import { useApi, useLoaded } from "../hooks.ts";
import { ConfirmDialog } from "./confirm-dialog.tsx";
import { ExplainedError } from "./explained.tsx";
import { isSame, SchemaDiffView } from "./schema-diff.tsx";

interface Props {
  model: Model;
  latest: Version;
  version: Version;
  onDone: () => void;
}

export function RollBack(props: Props) {
  const { latest, version } = props;
  const [isAsking, setAsking] = useState(false);
  const isBack = version.created_at <= latest.created_at;
  const short = version.id.slice(0, 12);
  const words = isBack ? "Roll back to this version" : "Make this the latest version";
  return (
    <>
      <Button
        size="sm"
        icon={ArrowCounterClockwiseIcon}
        aria-label={`${words}: ${short}`}
        onClick={() => setAsking(true)}
      >
        {words}
      </Button>
      {isAsking ? (
        <Confirm
          {...props}
          title={isBack ? `Roll back to ${short}?` : `Make ${short} the latest?`}
          confirm={isBack ? "Roll back" : "Make it the latest"}
          onClose={() => setAsking(false)}
        />
      ) : null}
    </>
  );
}

function Confirm({
  model,
  latest,
  version,
  title,
  confirm,
  onClose,
  onDone,
}: Props & { title: string; confirm: string; onClose: () => void }) {
  const api = useApi();
  const name = fullName(model);
  const diff = useLoaded(`diff ${version.id} ${latest.id}`, () =>
    api.versionDiff(model.owner, model.name, version.id, latest.id),
  );
  const rollBack = async () => {
    await api.updateModel(model.owner, model.name, { latest_version: version.id });
    onClose();
    onDone();
  };
  return (
    <ConfirmDialog title={title} confirm={confirm} onConfirm={rollBack} onClose={onClose}>
      <p>
        From now on <strong>{name}</strong> runs <span className="mono">{version.id.slice(0, 12)}</span> where no
        version is named, in place of <span className="mono">{latest.id.slice(0, 12)}</span>. Deployments, and callers
        that name a version, keep theirs. Nothing is built, and no version goes: the way back is the same.
      </p>
      {diff.data === undefined ? (
        diff.error === undefined ? (
          <Loader size="sm" />
        ) : (
          <ExplainedError error={diff.error} onRetry={diff.reload} />
        )
      ) : isSame(diff.data) ? (
        <p className="muted">For callers nothing changes: inputs and output are the same.</p>
      ) : (
        <>
          <p>For callers this changes:</p>
          <SchemaDiffView diff={diff.data} />
          {model.stable && diff.data.breaking.length > 0 ? (
            <p className="warning-words">
              The model is marked stable: its callers were promised that nothing like that happens.
            </p>
          ) : null}
        </>
      )}
    </ConfirmDialog>
  );
}
