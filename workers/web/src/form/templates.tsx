/** How the form's members, lists and objects are laid out. */
import { Button } from "@cloudflare/kumo/components/button";
import { PlusIcon, XIcon } from "@phosphor-icons/react";
import {
  type ArrayFieldItemTemplateProps,
  type ArrayFieldTemplateProps,
  descriptionId,
  errorId,
  type FieldTemplateProps,
  type ObjectFieldTemplateProps,
  type RJSFSchema,
} from "@rjsf/utils";
import { limitsOf } from "./limits.ts";

type Json = Record<string, unknown>;

export function MemberTemplate(props: FieldTemplateProps<Json>) {
  const { id, label, children, schema, required, rawErrors, rawDescription, hidden, fieldPathId } = props;
  if (hidden) return <div hidden>{children}</div>;
  const isRoot = fieldPathId.path.length === 0;
  const isEntry = typeof fieldPathId.path.at(-1) === "number";
  if (isRoot) return children;
  const errors = rawErrors?.length ? (
    <p id={errorId(id)} className="member-error" role="alert">
      {label} {rawErrors.join("; ")}
    </p>
  ) : null;
  if (isEntry) {
    return (
      <div className="member-entry">
        {children}
        {errors}
      </div>
    );
  }
  const limits = limitsOf(schema as Json);
  // A list's or a JSON member's label cannot point at one control: its group is named instead.
  const isGroup = schema.type === "array";
  const head = (
    <>
      {label}
      {required || schema.default !== undefined ? null : <span className="member-optional"> optional</span>}
    </>
  );
  const rest = (
    <>
      {children}
      {errors}
      {rawDescription ? (
        <p id={descriptionId(id)} className="member-description">
          {rawDescription}
        </p>
      ) : null}
    </>
  );
  const note = limits === "" ? null : <span className="member-limits">{limits}</span>;
  if (isGroup) {
    return (
      <fieldset className="member">
        <legend className="member-head">
          <span className="member-label">{head}</span>
          {note}
        </legend>
        {rest}
      </fieldset>
    );
  }
  return (
    <div className="member">
      <div className="member-head">
        <label htmlFor={id} id={`${id}__label`} className="member-label">
          {head}
        </label>
        {note}
      </div>
      {rest}
    </div>
  );
}

export function MembersTemplate({ properties }: ObjectFieldTemplateProps<Json>) {
  return <div className="members">{properties.map((property) => property.content)}</div>;
}

/** Numbers stand in columns: a series of them would else be as many lines. */
const holdsNumbers = ({ items }: RJSFSchema) =>
  typeof items === "object" && !Array.isArray(items) && (items.type === "number" || items.type === "integer");

export function ListTemplate({ items, canAdd, onAddClick, disabled, title, schema }: ArrayFieldTemplateProps<Json>) {
  return (
    <div className="list-input" data-numbers={holdsNumbers(schema) ? "" : undefined}>
      {items}
      {canAdd ? (
        <Button
          type="button"
          size="sm"
          icon={PlusIcon}
          onClick={onAddClick}
          disabled={disabled === true}
          aria-label={`Add to ${title}`}
        >
          Add
        </Button>
      ) : null}
    </div>
  );
}

export function ListEntryTemplate({ children, buttonsProps, index, disabled }: ArrayFieldItemTemplateProps<Json>) {
  return (
    <div className="list-entry">
      <div className="list-entry-control">{children}</div>
      {buttonsProps.hasRemove ? (
        <Button
          type="button"
          variant="ghost"
          shape="square"
          icon={XIcon}
          aria-label={`Remove entry ${index + 1}`}
          onClick={buttonsProps.onRemoveItem}
          disabled={disabled === true}
        />
      ) : null}
    </div>
  );
}
