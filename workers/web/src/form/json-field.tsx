/** A box for values of any shape (objects, unions, lists of objects), written as JSON. */
import { InputArea } from "@cloudflare/kumo/components/input";
import { ariaDescribedByIds, errorId, type FieldProps } from "@rjsf/utils";
import { useState } from "react";
import { validate } from "./validate.ts";

type Json = Record<string, unknown>;

export function JsonField(props: FieldProps<Json>) {
  const { fieldPathId, formData, onChange, schema, name, disabled, rawErrors } = props;
  const id = fieldPathId.$id;
  const [text, setText] = useState(() => write(formData));
  const [shown, setShown] = useState<unknown>(formData);
  const [fault, setFault] = useState<string | null>(null);
  // The value was changed from outside (reset, example): show that.
  if (shown !== formData) {
    setShown(formData);
    setText(write(formData));
    setFault(null);
  }
  const change = (next: string) => {
    setText(next);
    const value = read(next, schema as Json);
    setFault(value === INVALID ? "is not valid JSON yet" : null);
    if (value === INVALID) return;
    setShown(value);
    onChange(value as Json | undefined, fieldPathId.path);
  };
  return (
    <>
      <InputArea
        id={id}
        name={name}
        className="control long-text mono"
        rows={3}
        spellCheck={false}
        disabled={disabled === true}
        aria-invalid={fault !== null || (rawErrors?.length ?? 0) > 0}
        {...(schema.type === "array" ? { "aria-label": String(schema.title) } : { "aria-labelledby": `${id}__label` })}
        aria-describedby={ariaDescribedByIds(id)}
        value={text}
        onChange={(event) => change(event.target.value)}
      />
      {fault === null ? null : (
        <p className="member-error" id={`${errorId(id)}-json`}>
          {schema.title} {fault}
        </p>
      )}
    </>
  );
}

const INVALID = Symbol("invalid");

function write(value: unknown): string {
  if (value === undefined) return "";
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

/** JSON, or the bare text where the schema takes a text (unions of text and number). */
function read(text: string, schema: Json): unknown {
  if (text.trim() === "") return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return validate(schema, text).length === 0 ? text : INVALID;
  }
}
