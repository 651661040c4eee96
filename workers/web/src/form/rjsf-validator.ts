/** The form library's view of validate.ts, and of the faults that the edge answers with. */
import type { ErrorSchema, RJSFSchema, RJSFValidationError, ValidatorType } from "@rjsf/utils";
import type { InvalidField } from "../../../../schema/problems.ts";
import { type Fault, validate } from "./validate.ts";

type Json = Record<string, unknown>;

/** Nests messages where the library looks for them: `{texts: {0: {__errors: [...]}}}`. */
export function errorSchema(faults: Fault[]): ErrorSchema<Json> {
  const root: Json = {};
  for (const { path, message } of faults) {
    let at = root;
    for (const key of path) {
      const next = at[key];
      if (typeof next === "object" && next !== null) at = next as Json;
      else {
        const made: Json = {};
        at[key] = made;
        at = made;
      }
    }
    at["__errors"] = [...((at["__errors"] as string[] | undefined) ?? []), message];
  }
  return root as ErrorSchema<Json>;
}

/**
 * The faults that a 422 names, at the form's members. `input.<name>` is the edge's path; for `required` it is the parent's, and the description names
 * the missing member.
 */
export function faultsOf(invalid: InvalidField[], members: string[]): { faults: Fault[]; rest: InvalidField[] } {
  const faults: Fault[] = [];
  const rest: InvalidField[] = [];
  for (const field of invalid) {
    let path = field.field.split(/[./]/).filter((part) => part !== "");
    if (path[0] === "input") path = path.slice(1);
    const missing =
      path.length === 0
        ? members.find((name) => new RegExp(`\\b${literal(name)}\\b`).test(field.description))
        : undefined;
    const name = path[0] ?? missing;
    if (name === undefined || !members.includes(name)) rest.push(field);
    else
      faults.push({
        path: [name, ...path.slice(1).map((part) => (/^\d+$/.test(part) ? Number(part) : part))],
        message: field.description,
      });
  }
  return { faults, rest };
}

const literal = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

export const validator: ValidatorType<Json, RJSFSchema> = {
  validateFormData(formData, schema) {
    const faults = validate(schema as Json, formData ?? {});
    const errors = faults.map(
      (fault): RJSFValidationError => ({ stack: `${fault.path.join(".")} ${fault.message}`, message: fault.message }),
    );
    return { errors, errorSchema: errorSchema(faults) };
  },
  isValid: (schema, formData) => validate(schema as Json, formData).length === 0,
  rawValidation: () => ({ errors: [] }),
};
