/** A model's README. Its author may be anyone: HTML in it is shown as text, addresses that run code are dropped, and pictures come by https only. */
import { Markdown as MarkdownToJsx } from "markdown-to-jsx/react";
import { type AnchorHTMLAttributes, Fragment, type ImgHTMLAttributes } from "react";

function SafeLink({ href, children, title }: AnchorHTMLAttributes<HTMLAnchorElement>) {
  const isOutside = href !== undefined && /^(https?:|mailto:)/i.test(href);
  const isHere = href?.startsWith("#") === true;
  if (!isOutside && !isHere) return <span title={title}>{children}</span>;
  return (
    <a href={href} title={title} {...(isOutside ? { target: "_blank", rel: "noreferrer nofollow" } : {})}>
      {children}
    </a>
  );
}

function SafeImage({ src, alt, title }: ImgHTMLAttributes<HTMLImageElement>) {
  if (typeof src !== "string" || !/^https:/i.test(src)) return alt ? <em>{alt}</em> : null;
  return <img src={src} alt={alt ?? ""} title={title} loading="lazy" referrerPolicy="no-referrer" />;
}

const OPTIONS = {
  disableParsingRawHTML: true,
  wrapper: Fragment,
  // The page has the first heading.
  overrides: {
    a: { component: SafeLink },
    img: { component: SafeImage },
    h1: { component: "h2" },
    h2: { component: "h3" },
    h3: { component: "h4" },
  },
} as const;

export function Markdown({ text }: { text: string }) {
  return (
    <div className="prose">
      <MarkdownToJsx options={OPTIONS}>{text}</MarkdownToJsx>
    </div>
  );
}
