/** A file member: picked, dropped or given as a URL. A small picked file travels inside the request as a data URI, a larger one is uploaded first. */
import { Button } from "@cloudflare/kumo/components/button";
import { Input } from "@cloudflare/kumo/components/input";
import { UploadSimpleIcon, XIcon } from "@phosphor-icons/react";
import { ariaDescribedByIds, type WidgetProps } from "@rjsf/utils";
import { type DragEvent, useEffect, useRef, useState } from "react";
import { explainError } from "../explain.ts";
import { bytes } from "../format.ts";
import { useApi } from "../hooks.ts";
import { type Media, mediaOfType } from "../output/classify.ts";
import { FilePreview } from "../output/media.tsx";
import { UPLOAD_BYTES_MAX, wayOfFile } from "./limits.ts";

/** The uploaded file whose URL is the value: the URL itself answers with a description of it, so what is shown is the file on this machine. */
interface Uploaded {
  url: string;
  local: string;
  media: Media;
}

export function FileWidget(props: WidgetProps<Record<string, unknown>>) {
  const { id, value, onChange, schema, label, disabled } = props;
  const [note, setNote] = useState<string | null>(null);
  const [name, setName] = useState<string | null>(null);
  const [isOver, setOver] = useState(false);
  const api = useApi();
  const [isUploading, setUploading] = useState(false);
  const [uploaded, setUploaded] = useState<Uploaded | null>(null);
  useEffect(() => () => (uploaded === null ? undefined : URL.revokeObjectURL(uploaded.local)), [uploaded]);
  const picker = useRef<HTMLInputElement>(null);
  const url = typeof value === "string" ? value : "";
  const isOwnFile = uploaded !== null && uploaded.url === url;
  const isPicked = url.startsWith("data:") || isOwnFile;

  const take = async (file: File | undefined) => {
    if (file === undefined) return;
    const way = wayOfFile(file.size);
    if (way === "refused") {
      setNote(
        `${file.name} has ${bytes(file.size)}; ${bytes(UPLOAD_BYTES_MAX)} can be sent from here. Host it somewhere and paste its URL.`,
      );
      return;
    }
    setNote(null);
    try {
      if (way === "upload") await upload(file);
      else onChange(await dataUri(file));
      setName(`${file.name} (${bytes(file.size)})`);
    } catch (error) {
      setNote(way === "upload" ? explainError(error).detail : `${file.name} could not be read.`);
    }
  };
  const upload = async (file: File) => {
    setUploading(true);
    try {
      const { urls } = await api.uploadFile(file);
      setUploaded({ url: urls.get, local: URL.createObjectURL(file), media: mediaOfType(file.type) });
      onChange(urls.get);
    } finally {
      setUploading(false);
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
          <FilePreview url={url} {...(isOwnFile ? { local: uploaded.local, media: uploaded.media } : {})} />
        </div>
      )}
      <div className="file-input-row">
        {isPicked ? (
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
          loading={isUploading}
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
