/** Pictures, sounds, films and other files. */
import { ArrowsOutSimpleIcon, DownloadSimpleIcon, FileIcon } from "@phosphor-icons/react";
import { ownOrigin } from "../api.ts";
import { fileName, type Media, mediaOf } from "./classify.ts";

/** Files of this server are asked for under the page's own address, which may be another name of the same host. */
function source(url: string): string {
  if (url.startsWith("data:")) return url;
  try {
    return new URL(url).pathname.startsWith("/outputs/") ? ownOrigin(url) : url;
  } catch {
    return url;
  }
}

/** `local`: where the page has the file itself, with what it is. */
export function FilePreview({ url, local, media = mediaOf(url) }: { url: string; local?: string; media?: Media }) {
  const src = local ?? source(url);
  switch (media) {
    case "image":
      return <img className="media" src={src} alt="" />;
    case "audio":
      // biome-ignore lint/a11y/useMediaCaption: what a model or a caller made has no captions.
      return <audio className="media" src={src} controls preload="metadata" />;
    case "video":
      // biome-ignore lint/a11y/useMediaCaption: what a model or a caller made has no captions.
      return <video className="media" src={src} controls preload="metadata" playsInline />;
    case "other":
      return (
        <p className="file-chip">
          <FileIcon aria-hidden />{" "}
          {local === undefined ? (fileName(url) ?? "A file inside the request") : "An uploaded file"}
        </p>
      );
  }
}

/** An output file, with ways to open and keep it. */
export function OutputFile({ url, label }: { url: string; label: string }) {
  const src = source(url);
  const media = mediaOf(url);
  const name = fileName(url) ?? `output.${/^data:\w+\/([\w]+)/.exec(url)?.[1] ?? "bin"}`;
  return (
    <figure className="output-file" data-media={media}>
      {media === "image" ? (
        <a
          className="output-picture"
          href={src}
          target="_blank"
          rel="noreferrer"
          aria-label={`Open ${label} at full size`}
        >
          <img src={src} alt={label} />
        </a>
      ) : (
        <FilePreview url={url} />
      )}
      <figcaption>
        <span className="output-file-name">{name}</span>
        {media === "image" ? (
          <a href={src} target="_blank" rel="noreferrer" className="quiet-link">
            <ArrowsOutSimpleIcon aria-hidden /> Full size
          </a>
        ) : null}
        <a href={src} download={name} className="quiet-link">
          <DownloadSimpleIcon aria-hidden /> Download
        </a>
      </figcaption>
    </figure>
  );
}
