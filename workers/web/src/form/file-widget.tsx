/** A file member: picked, dropped or given as a URL. A picked file travels inside the request as a data URI, so its size is bounded. */
import { Button } from "@cloudflare/kumo/components/button";
import { Input } from "@cloudflare/kumo/components/input";
import { UploadSimpleIcon, XIcon } from "@phosphor-icons/react";
import { ariaDescribedByIds, type WidgetProps } from "@rjsf/utils";
import { type DragEvent, useRef, useState } from "react";
import { bytes } from "../format.ts";
import { FilePreview } from "../output/media.tsx";

/** The edge takes 16 MiB of JSON; base64 makes a file a third larger, and other inputs need a little. */
const FILE_BYTES_MAX = 11 * 1024 * 1024;

export function FileWidget(props: WidgetProps<Record<string, unknown>>) {
  const { id, value, onChange, schema, label, disabled } = props;
  const [note, setNote] = useState<string | null>(null);
  const [name, setName] = useState<string | null>(null);
  const [isOver, setOver] = useState(false);
  const picker = useRef<HTMLInputElement>(null);
  const url = typeof value === "string" ? value : "";
  const isData = url.startsWith("data:");

  const take = async (file: File | undefined) => {
    if (file === undefined) return;
    if (file.size > FILE_BYTES_MAX) {
      setNote(
        `${file.name} has ${bytes(file.size)}; ${bytes(FILE_BYTES_MAX)} can be sent from here. Host it somewhere and paste its URL.`,
      );
      return;
    }
    try {
      const read = await dataUri(file);
      setNote(null);
      setName(`${file.name} (${bytes(file.size)})`);
      onChange(read);
    } catch {
      setNote(`${file.name} could not be read.`);
    }
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    void take(event.dataTransfer.files[0]);
  };
  const accept = schema["x-cog-accept"] as unknown;
  return (
    <section
      className="file-input"
      aria-label={label}
      data-over={isOver ? "" : undefined}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={drop}
    >
      {url === "" ? null : (
        <div className="file-input-preview">
          <FilePreview url={url} />
        </div>
      )}
      <div className="file-input-row">
        {isData ? (
          <span className="file-input-name" title={name ?? undefined}>
            {name ?? "A file, inside the request"}
          </span>
        ) : (
          <Input
            id={id}
            className="control"
            type="url"
            placeholder="Drop a file, or paste a URL"
            autoComplete="off"
            disabled={disabled === true}
            aria-invalid={(props.rawErrors?.length ?? 0) > 0}
            {...(props.options["label"] === false
              ? { "aria-label": `${label}, URL` }
              : { "aria-labelledby": `${id}__label` })}
            aria-describedby={ariaDescribedByIds(id)}
            value={url}
            onChange={(event) => onChange(event.target.value === "" ? undefined : event.target.value.trim())}
          />
        )}
        <Button
          type="button"
          icon={UploadSimpleIcon}
          disabled={disabled === true}
          onClick={() => picker.current?.click()}
        >
          {url === "" ? "Choose file" : "Replace"}
        </Button>
        {url === "" ? null : (
          <Button
            type="button"
            variant="ghost"
            shape="square"
            icon={XIcon}
            aria-label={`Remove ${label}`}
            onClick={() => {
              setName(null);
              onChange(undefined);
            }}
          />
        )}
      </div>
      <input
        ref={picker}
        type="file"
        hidden
        aria-label={`${label}, file`}
        accept={typeof accept === "string" ? accept : undefined}
        onChange={(event) => {
          void take(event.target.files?.[0]);
          // The same file may be picked again after a removal.
          event.target.value = "";
        }}
      />
      {note === null ? null : (
        <p className="member-error" role="alert">
          {note}
        </p>
      )}
    </section>
  );
}

function dataUri(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
