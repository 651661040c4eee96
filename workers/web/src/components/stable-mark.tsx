/** Whether a model is marked stable, what that promises, and for its people the switch. */
import { Switch } from "@cloudflare/kumo/components/switch";
import { ShieldCheckIcon } from "@phosphor-icons/react";
import { useId, useState } from "react";
import type { Model } from "../api.ts";
import { useApi } from "../hooks.ts";
import { ExplainedError } from "./explained.tsx";

const PROMISE = "A push whose inputs or output would break its callers is refused, unless it is forced.";

export function StableMark({
  model,
  mayChange,
  onChanged,
}: {
  model: Model;
  mayChange: boolean;
  onChanged: () => void;
}) {
  const api = useApi();
  const id = useId();
  const [wanted, setWanted] = useState<boolean | null>(null);
  const [refused, setRefused] = useState<unknown>(undefined);
  if (!mayChange) {
    return model.stable ? (
      <p className="stable-mark">
        <ShieldCheckIcon aria-hidden size={20} />
        <span>
          <strong>Stable.</strong> {PROMISE}
        </span>
      </p>
    ) : null;
  }
  const change = async (stable: boolean) => {
    setWanted(stable);
    setRefused(undefined);
    try {
      await api.updateModel(model.owner, model.name, { stable });
      onChanged();
    } catch (error) {
      setRefused(error);
      setWanted(null);
    }
  };
  return (
    <>
      <div className="stable-mark">
        <Switch
          className="toggle"
          id={id}
          aria-label="Stable"
          aria-describedby={`${id}-promise`}
          checked={wanted ?? model.stable}
          onCheckedChange={(checked: boolean) => void change(checked)}
        />
        <span id={`${id}-promise`}>
          <strong>Stable.</strong> {PROMISE} <code>stable:</code> in <code>cogway.yaml</code> sets it with each push.
        </span>
      </div>
      {refused === undefined ? null : <ExplainedError error={refused} />}
    </>
  );
}
