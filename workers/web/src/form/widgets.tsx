/** The controls of simple members. */
import { Input, InputArea } from "@cloudflare/kumo/components/input";
import { Select } from "@cloudflare/kumo/components/select";
import { Switch } from "@cloudflare/kumo/components/switch";
import { ariaDescribedByIds, type RegistryWidgetsType, type WidgetProps } from "@rjsf/utils";
import { FileWidget } from "./file-widget.tsx";
import { sliderStep } from "./limits.ts";

type Json = Record<string, unknown>;
type Props = WidgetProps<Json>;

/** A member is named by its label (templates.tsx); an entry of a list has none of its own. */
const nameOf = (props: Props) =>
  props.options["label"] === false ? { "aria-label": props.label } : { "aria-labelledby": `${props.id}__label` };
/** Empty is absent: the model's own default applies. */
const textOrNothing = (text: string) => (text === "" ? undefined : text);

function common(props: Props) {
  return {
    id: props.id,
    name: props.htmlName ?? props.id,
    disabled: props.disabled === true,
    required: props.required === true,
    "aria-describedby": ariaDescribedByIds(props.id),
    "aria-invalid": (props.rawErrors?.length ?? 0) > 0,
    ...nameOf(props),
  };
}

function LineWidget(props: Props) {
  return (
    <Input
      {...common(props)}
      className="control"
      autoComplete="off"
      value={String(props.value ?? "")}
      onChange={(event) => props.onChange(textOrNothing(event.target.value))}
    />
  );
}

/** Lines of a text box where it cannot grow with its text (styles/form.css). */
const LONG_TEXT_ROWS = 4;

function LongTextWidget(props: Props) {
  return (
    <InputArea
      {...common(props)}
      className={props.options["label"] === false ? "control long-text short" : "control long-text"}
      rows={LONG_TEXT_ROWS}
      value={String(props.value ?? "")}
      onChange={(event) => props.onChange(textOrNothing(event.target.value))}
    />
  );
}

function SecretWidget(props: Props) {
  return (
    <Input
      {...common(props)}
      className="control"
      type="password"
      autoComplete="off"
      value={String(props.value ?? "")}
      onChange={(event) => props.onChange(textOrNothing(event.target.value))}
    />
  );
}

function NumberWidget(props: Props) {
  const schema = props.schema as Json;
  const step = sliderStep(schema);
  const minimum = schema["minimum"];
  const maximum = schema["maximum"];
  const field = (
    <Input
      {...common(props)}
      className="control number"
      type="number"
      inputMode={schema["type"] === "integer" ? "numeric" : "decimal"}
      step={schema["type"] === "integer" ? 1 : "any"}
      min={typeof minimum === "number" ? minimum : undefined}
      max={typeof maximum === "number" ? maximum : undefined}
      value={props.value === undefined || props.value === null ? "" : String(props.value)}
      onChange={(event) => props.onChange(textOrNothing(event.target.value))}
    />
  );
  if (step === null || typeof minimum !== "number" || typeof maximum !== "number") return field;
  return (
    <div className="number-with-slider">
      <input
        type="range"
        className="slider"
        aria-label={`${props.label}, slider`}
        min={minimum}
        max={maximum}
        step={step}
        disabled={props.disabled === true}
        value={typeof props.value === "number" ? props.value : minimum}
        data-unset={typeof props.value === "number" ? undefined : ""}
        onChange={(event) => props.onChange(event.target.valueAsNumber)}
      />
      {field}
    </div>
  );
}

function ToggleWidget(props: Props) {
  return (
    <Switch
      className="toggle"
      id={props.id}
      name={props.htmlName ?? props.id}
      {...nameOf(props)}
      aria-describedby={ariaDescribedByIds(props.id)}
      checked={props.value === true}
      disabled={props.disabled === true}
      onCheckedChange={(checked: boolean) => props.onChange(checked)}
    />
  );
}

const UNSET = "\u0000unset";

function ChoiceWidget(props: Props) {
  // Values may be numbers; the control is keyed by their place.
  const values = (props.schema.enum ?? []) as unknown[];
  const items = values.map((value, index) => ({ value: String(index), label: String(value) }));
  if (!props.required && props.schema.default === undefined) items.unshift({ value: UNSET, label: "Not set" });
  const chosen = values.indexOf(props.value);
  return (
    <Select
      id={props.id}
      className="control"
      {...nameOf(props)}
      disabled={props.disabled === true}
      placeholder="Choose"
      items={items}
      value={chosen === -1 ? (props.required ? null : UNSET) : String(chosen)}
      onValueChange={(value: unknown) => props.onChange(value === UNSET ? undefined : values[Number(value)])}
    />
  );
}

export const widgets: RegistryWidgetsType<Json> = {
  line: LineWidget,
  longText: LongTextWidget,
  secret: SecretWidget,
  number: NumberWidget,
  toggle: ToggleWidget,
  choice: ChoiceWidget,
  file: FileWidget,
};
