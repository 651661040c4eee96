/** The guides of docs/ as the site shows them: made into HTML by the build, so that no Worker parses Markdown. */
import { Marked, type Tokens } from "marked";

export interface Guide {
  /** file name without `.md` */
  name: string;
  title: string;
  /** of this site */
  href: string;
  /** inside a page's body */
  html: string;
  /** what search indexes: the Markdown itself */
  text: string;
}

/** A guide out of its Markdown. Each heading's id is its text, as problems' `type` URLs name them; links to other guides lose their `.md`. */
export function renderGuide(name: string, text: string): Guide {
  const marked = new Marked({
    renderer: {
      heading({ tokens, depth, text: title }: Tokens.Heading): string {
        const id = title.replaceAll("`", "").replaceAll('"', "").toLowerCase().replaceAll(" ", "-");
        return `<h${depth} id="${id}">${this.parser.parseInline(tokens)}</h${depth}>\n`;
      },
    },
    walkTokens(token) {
      if (token.type === "link" && /^[a-z-]+\.md(?:#|$)/.test(String(token["href"]))) {
        token["href"] = String(token["href"]).replace(".md", "");
      }
    },
  });
  const html = marked.parse(text, { async: false });
  const title = /^# (.+)$/m.exec(text)?.[1] ?? name;
  return { name, title, href: `/docs/${name}`, html, text };
}
