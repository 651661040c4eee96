/** The form of a version's inputs. */
// Not the package's index: that brings its test registry, whose validator generates code.
import Form from "@rjsf/core/lib/components/Form.js";
import type { ErrorSchema, RJSFSchema } from "@rjsf/utils";
import { useMemo, useRef } from "react";
import type { InputForm as InputFormSchema } from "./input-schema.ts";
import { JsonField } from "./json-field.tsx";
import { validator } from "./rjsf-validator.ts";
import { ListEntryTemplate, ListTemplate, MembersTemplate, MemberTemplate } from "./templates.tsx";
import { widgets } from "./widgets.tsx";

type Json = Record<string, unknown>;

const templates = {
  FieldTemplate: MemberTemplate,
  ObjectFieldTemplate: MembersTemplate,
  ArrayFieldTemplate: ListTemplate,
  ArrayFieldItemTemplate: ListEntryTemplate,
};
const fields = { json: JsonField };

export interface InputFormProps {
  form: InputFormSchema;
  formData: Json;
  /** what the edge refused, at its members */
  refused: ErrorSchema<Json> | undefined;
  onChange: (formData: Json) => void;
  onSubmit: (formData: Json) => void;
  children: React.ReactNode;
}

export function InputForm({ form, formData, refused, onChange, onSubmit, children }: InputFormProps) {
  const element = useRef<HTMLDivElement>(null);
  const uiSchema = useMemo(() => ({ ...form.uiSchema, "ui:submitButtonOptions": { norender: true } }), [form]);
  return (
    <div ref={element}>
      <Form<Json, RJSFSchema>
        idPrefix="input"
        schema={form.schema}
        uiSchema={uiSchema}
        validator={validator}
        widgets={widgets}
        templates={templates}
        fields={fields}
        formData={formData}
        {...(refused === undefined ? {} : { extraErrors: refused })}
        noHtml5Validate
        showErrorList={false}
        onChange={(event) => onChange(event.formData ?? {})}
        onSubmit={(event) => onSubmit(event.formData ?? {})}
        onError={() => focusFirstFault(element.current)}
      >
        {children}
      </Form>
    </div>
  );
}

/** After the faults are drawn, the first one's control gets the focus, so that a keyboard or screen reader is led to it. */
function focusFirstFault(root: HTMLElement | null): void {
  requestAnimationFrame(() => {
    const control = root?.querySelector<HTMLElement>("[aria-invalid=true]");
    const fallback = root?.querySelector<HTMLElement>(".member-error");
    (control ?? fallback)?.scrollIntoView({ block: "center" });
    control?.focus({ preventScroll: true });
  });
}
