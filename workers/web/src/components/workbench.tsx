/** The form on one side, what it made on the other. Before the first run the model's example stands there, with its input in the form. */
import { Button } from "@cloudflare/kumo/components/button";
import { Empty } from "@cloudflare/kumo/components/empty";
import { Tabs } from "@cloudflare/kumo/components/tabs";
import { ArrowCounterClockwiseIcon, PlayIcon } from "@phosphor-icons/react";
import type { ErrorSchema } from "@rjsf/utils";
import { type KeyboardEvent, useMemo, useRef, useState } from "react";
import { ApiError, hasEnded, type Model, type Prediction, type Version } from "../api.ts";
import { InputForm } from "../form/input-form.tsx";
import { component, defaultsOf, inputForm, inputOf } from "../form/input-schema.ts";
import { errorSchema, faultsOf } from "../form/rjsf-validator.ts";
import { predictionsChanged, useApi, useFollowed } from "../hooks.ts";
import { NOTHING_YET } from "../live-output.ts";
import { predictionPath } from "../route.ts";
import { Link } from "../router.tsx";
import { CodeSnippets } from "./code-snippets.tsx";
import { EstimateNote } from "./estimate-note.tsx";
import { ExplainedError } from "./explained.tsx";
import { PredictionView } from "./prediction-view.tsx";

type Json = Record<string, unknown>;

interface Props {
  model: Model;
  version: Version;
  isLatest: boolean;
  /** what stands there before the first run */
  example: Prediction | null;
  /** the input of an earlier prediction, to start from */
  startInput: Json | null;
}

export function Workbench({ model, version, isLatest, example: given, startInput }: Props) {
  const api = useApi();
  const form = useMemo(() => inputForm(version.openapi_schema), [version]);
  const outputSchema = useMemo(() => component(version.openapi_schema, "Output"), [version]);
  const defaults = useMemo(() => defaultsOf(form.schema), [form]);
  // An example's input fills the form from the start; its output is shown once there is one.
  const example = given?.status === "succeeded" ? given : null;
  const fresh = () => ({ ...defaults, ...inputOf(form.schema, startInput ?? given?.input ?? {}) });
  const [formData, setFormData] = useState<Json>(fresh);
  const [view, setView] = useState<"form" | "code">("form");
  const [created, setCreated] = useState<Prediction | null>(null);
  const [isSending, setSending] = useState(false);
  const [refusal, setRefusal] = useState<unknown>(undefined);
  const [refused, setRefused] = useState<ErrorSchema<Json> | undefined>(undefined);
  const followed = useFollowed(created);
  const outputPanel = useRef<HTMLElement>(null);
  const isRunning = followed !== null && !hasEnded(followed.prediction);

  const run = async (data: Json) => {
    if (isSending) return;
    setSending(true);
    setRefusal(undefined);
    setRefused(undefined);
    try {
      setCreated(await api.createPrediction(model, isLatest ? null : version.id, inputOf(form.schema, data)));
      predictionsChanged();
      // On a phone the output is below the form.
      requestAnimationFrame(() => outputPanel.current?.scrollIntoView({ block: "nearest", behavior: "smooth" }));
    } catch (error) {
      const invalid = error instanceof ApiError ? error.problem?.invalid_fields : undefined;
      const { faults, rest } = faultsOf(invalid ?? [], Object.keys(form.schema.properties ?? {}));
      if (faults.length > 0) setRefused(errorSchema(faults));
      if (faults.length === 0 || rest.length > 0) setRefusal(error);
    } finally {
      setSending(false);
    }
  };
  const onKeyDown = (event: KeyboardEvent<HTMLElement>) => {
    if (event.key !== "Enter" || !(event.metaKey || event.ctrlKey)) return;
    event.preventDefault();
    event.currentTarget.querySelector("form")?.requestSubmit();
  };
  const secrets = Object.keys(form.uiSchema).filter((name) => form.uiSchema[name]?.["ui:widget"] === "secret");
  return (
    <div className="bench">
      <section className="panel" aria-label="Input" onKeyDown={onKeyDown}>
        <div className="panel-head">
          <Tabs
            tabs={[
              { value: "form", label: "Input" },
              { value: "code", label: "Code" },
            ]}
            value={view}
            onValueChange={(value) => setView(value === "code" ? "code" : "form")}
          />
          {view === "form" ? (
            <Button
              type="button"
              size="sm"
              variant="ghost"
              icon={ArrowCounterClockwiseIcon}
              onClick={() => {
                setFormData(fresh());
                setRefused(undefined);
                setRefusal(undefined);
              }}
            >
              Reset
            </Button>
          ) : null}
        </div>
        <div className="panel-body">
          {view === "code" ? (
            <CodeSnippets
              request={{
                origin: location.origin,
                model: `${model.owner}/${model.name}`,
                version: isLatest ? null : version.id,
                input: inputOf(form.schema, formData),
                secrets,
              }}
            />
          ) : (
            <InputForm
              form={form}
              formData={formData}
              refused={refused}
              onChange={setFormData}
              onSubmit={(data) => void run(data)}
            >
              {refusal === undefined ? null : <ExplainedError error={refusal} />}
              <div className="run-row">
                <Button
                  type="submit"
                  className="plain-button"
                  variant="primary"
                  size="lg"
                  icon={PlayIcon}
                  loading={isSending}
                >
                  {isRunning ? "Run another" : "Run"}
                </Button>
                <span className="muted run-hint">
                  <kbd>Ctrl</kbd> <kbd>Enter</kbd>
                </span>
              </div>
              <EstimateNote
                model={model}
                version={isLatest ? null : version.id}
                input={inputOf(form.schema, formData)}
              />
            </InputForm>
          )}
        </div>
      </section>
      <section className="panel panel-output" aria-label="Result" ref={outputPanel}>
        <div className="panel-head">
          <h2>{created === null && example !== null ? "Example" : "Output"}</h2>
          {created === null ? null : (
            <Link href={predictionPath(created.id)} className="quiet-link">
              Its own page
            </Link>
          )}
        </div>
        <div className="panel-body">
          {followed !== null ? (
            <PredictionView key={followed.prediction.id} followed={followed} outputSchema={outputSchema} />
          ) : example !== null ? (
            <PredictionView
              followed={{ prediction: example, live: NOTHING_YET, isReached: true, error: undefined }}
              outputSchema={outputSchema}
            />
          ) : (
            <Empty
              size="sm"
              title="Nothing has run yet"
              description="Fill in the form and run it: what the model makes shows up here as it comes."
            />
          )}
        </div>
      </section>
    </div>
  );
}
