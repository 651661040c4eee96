/** As much of Markdown as our own pages use: headings, paragraphs, lists, `code`. Everything is escaped; no HTML passes. Pure. */

export function renderMarkdown(text: string): string {
  return text
    .split(/\n{2,}/)
    .map((block) => renderBlock(block.trim()))
    .join("\n");
}

function renderBlock(block: string): string {
  const heading = /^(#{1,4}) (.+)$/.exec(block);
  if (heading !== null) {
    const level = heading[1]?.length ?? 1;
    const title = heading[2] ?? "";
    return `<h${level} id="${escapeHtml(title.replaceAll("`", ""))}">${inline(title)}</h${level}>`;
  }
  if (block.startsWith("- ")) {
    const items = block.slice(2).split(/\n- /);
    return `<ul>${items.map((item) => `<li>${inline(item)}</li>`).join("")}</ul>`;
  }
  return block === "" ? "" : `<p>${inline(block)}</p>`;
}

function inline(text: string): string {
  return text
    .split("`")
    .map((part, i) => (i % 2 === 1 ? `<code>${escapeHtml(part)}</code>` : escapeHtml(part)))
    .join("");
}

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
