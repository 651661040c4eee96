/**
 * Reads requirements files as pip does, as far as resolution needs: names, extras, specifiers, markers, index options, addresses and local archives. What it
 * cannot read is kept as it is and left to the installer, which says so better; nothing here throws. Pure.
 */
import { satisfies, valid, validRange } from "@renovatebot/pep440";

/** Longer lines are no requirements; the bound keeps the marker's parser shallow. */
const LINE_CHARACTERS_MAX = 8192;

export interface Requirement {
  /** from 1, in the text */
  line: number;
  /** normalised: lower case, runs of `-_.` as one `-` */
  name: string;
  extras: string[];
  /** PEP 440, such as `>=2,<3`; empty for any version */
  specifier: string;
  /** its address or local path, so that no index is asked; the specifier is then what a wheel's file name says */
  source: string | null;
}

export interface Requirements {
  /** those whose marker applies */
  packages: Requirement[];
  /** `--index-url` and `--extra-index-url`, in order */
  indexUrls: string[];
  /** `-r` and `-c` */
  includes: { line: number; path: string }[];
}

/** What markers ask about; the platform is Linux on x86-64, as all images and origins are. */
export interface MarkerEnvironment {
  /** such as 3.11 or 3.11.7 */
  python: string;
}

export function parseRequirements(text: string, environment: MarkerEnvironment): Requirements {
  const result: Requirements = { packages: [], indexUrls: [], includes: [] };
  for (const { line, content } of logicalLines(text)) {
    const option = /^(--[a-z-]+|-[a-z])[\s=]*(.*)$/.exec(content);
    if (content.startsWith("-")) {
      const value = option?.[2]?.trim() ?? "";
      const name = option?.[1] ?? "";
      if (/^(-i|--index-url|--extra-index-url)$/.test(name)) result.indexUrls.push(value);
      else if (/^(-r|--requirement|-c|--constraint)$/.test(name) && value !== "")
        result.includes.push({ line, path: value });
      continue;
    }
    const requirement = parseRequirement(line, content, environment);
    if (requirement !== null) result.packages.push(requirement);
  }
  return result;
}

/** Lines joined at a backslash, without comments and empty ones. */
export function* logicalLines(text: string): Generator<{ line: number; content: string }> {
  let held = "";
  let first = 0;
  for (const [index, raw] of text
    .replace(/^\uFEFF/, "")
    .split(/\r\n|\r|\n/)
    .entries()) {
    if (held === "") first = index + 1;
    // A comment ends the line, also one that would go on.
    const isComment = /^\s*#/.test(raw);
    if (!isComment && raw.endsWith("\\")) {
      held += raw.slice(0, -1);
      continue;
    }
    const content = (held + raw).replace(/(^|\s)#.*$/, "").trim();
    held = "";
    if (content !== "" && content.length <= LINE_CHARACTERS_MAX) yield { line: first, content };
  }
  const rest = held.trim();
  if (rest !== "" && rest.length <= LINE_CHARACTERS_MAX) yield { line: first, content: rest };
}

export function normalizeName(name: string): string {
  return name.toLowerCase().replace(/[-_.]+/g, "-");
}

function parseRequirement(line: number, content: string, environment: MarkerEnvironment): Requirement | null {
  // Options of one requirement (`--hash=…`) say nothing of what is wanted.
  const text = content.replace(/\s--[a-z-]+[=\s].*$/, "");
  if (/^([a-z][a-z0-9+.-]*:\/\/|\.{0,2}\/)/i.test(text) || /^[^\s;@]+\.(whl|tar\.gz|zip)(\s|;|$)/i.test(text))
    return localOrAddress(line, text);
  const match = /^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[([^\]]*)\])?\s*(.*)$/s.exec(text);
  if (match === null) return null;
  const [, name = "", extras = "", rest = ""] = match;
  const common = {
    line,
    name: normalizeName(name),
    extras: extras
      .split(",")
      .map((extra) => extra.trim())
      .filter((extra) => extra !== ""),
  };
  if (rest.startsWith("@")) {
    // In an address, a marker begins after a space.
    const [source = "", marker] = rest
      .slice(1)
      .trim()
      .split(/\s+;\s*/);
    const specifier = wheelOf(source)?.specifier ?? "";
    return applies(marker, environment) ? { ...common, specifier, source } : null;
  }
  const [wanted = "", ...markers] = rest.split(";");
  const specifier = wanted
    .trim()
    .replace(/^\((.*)\)$/, "$1")
    .replace(/\s+/g, "");
  if (specifier !== "" && !isSpecifier(specifier)) return null;
  return applies(markers.join(";"), environment) ? { ...common, specifier, source: null } : null;
}

function localOrAddress(line: number, text: string): Requirement | null {
  const source = text.split(/\s/)[0] ?? "";
  const wheel = wheelOf(source);
  return wheel === null ? null : { line, extras: [], source, ...wheel };
}

/** What a wheel's file name says. */
function wheelOf(source: string): { name: string; specifier: string } | null {
  const file = /([^/\\]+)\.whl(?:[#?].*)?$/i.exec(source)?.[1];
  const [name, version] = decode(file ?? "").split("-");
  if (name === undefined || name === "" || version === undefined) return null;
  return { name: normalizeName(name), specifier: valid(version) === null ? "" : `==${version}` };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function isSpecifier(specifier: string): boolean {
  try {
    return specifier.startsWith("===") || validRange(specifier);
  } catch {
    return false;
  }
}

/** Whether a version is one that a specifier allows; releases only, unless the specifier names another. */
export function allows(specifier: string, version: string): boolean {
  if (specifier === "") return true;
  if (specifier.startsWith("===")) return specifier.slice(3) === version;
  try {
    return satisfies(version, specifier);
  } catch {
    return false;
  }
}

type Token = { kind: "text" | "name" | "operator" | "paren"; text: string };

/** A marker that cannot be read applies: the installer decides. */
function applies(marker: string | undefined, environment: MarkerEnvironment): boolean {
  if (marker === undefined || marker.trim() === "") return true;
  try {
    const tokens = tokensOf(marker);
    const value = anyOf(tokens, variablesOf(environment));
    return tokens.length > 0 ? true : value;
  } catch {
    return true;
  }
}

function tokensOf(marker: string): Token[] {
  const tokens: Token[] = [];
  const pattern = /\s*(?:(['"])(.*?)\1|(\(|\))|(===|==|~=|!=|<=|>=|<|>|not\s+in\b|in\b|and\b|or\b)|([A-Za-z_][\w.]*))/y;
  const text = marker.trimEnd();
  while (pattern.lastIndex < text.length) {
    const match = pattern.exec(text);
    if (match === null) throw new Error("not a marker");
    const [, quote, quoted, paren, operator, name] = match;
    if (quote !== undefined) tokens.push({ kind: "text", text: quoted ?? "" });
    else if (paren !== undefined) tokens.push({ kind: "paren", text: paren });
    else if (operator !== undefined) tokens.push({ kind: "operator", text: operator.replace(/\s+/g, " ") });
    else tokens.push({ kind: "name", text: name ?? "" });
  }
  return tokens;
}

type Variables = Map<string, string>;

/** `or` of `and`s of comparisons. Takes what it reads from the front of `tokens`. */
function anyOf(tokens: Token[], variables: Variables): boolean {
  let value = allOf(tokens, variables);
  while (tokens[0]?.text === "or" && tokens[0].kind === "operator") {
    tokens.shift();
    value = allOf(tokens, variables) || value;
  }
  return value;
}

function allOf(tokens: Token[], variables: Variables): boolean {
  let value = comparison(tokens, variables);
  while (tokens[0]?.text === "and" && tokens[0].kind === "operator") {
    tokens.shift();
    value = comparison(tokens, variables) && value;
  }
  return value;
}

function comparison(tokens: Token[], variables: Variables): boolean {
  if (tokens[0]?.kind === "paren" && tokens[0].text === "(") {
    tokens.shift();
    const value = anyOf(tokens, variables);
    if (tokens.shift()?.text !== ")") throw new Error("not a marker");
    return value;
  }
  const [left, operator, right] = tokens.splice(0, 3);
  if (left === undefined || operator?.kind !== "operator" || right === undefined) throw new Error("not a marker");
  const textOf = (token: Token): string => (token.kind === "text" ? token.text : (variables.get(token.text) ?? ""));
  return compare(textOf(left), operator.text, textOf(right));
}

function compare(left: string, operator: string, right: string): boolean {
  if (operator === "in") return right.includes(left);
  if (operator === "not in") return !right.includes(left);
  const range = `${operator}${right}`;
  if (valid(left) !== null && isSpecifier(range)) return allows(range, left);
  if (operator === "==" || operator === "===") return left === right;
  if (operator === "!=") return left !== right;
  if (operator === "<" || operator === "<=") return left < right || (operator === "<=" && left === right);
  return left > right || (operator === ">=" && left === right);
}

function variablesOf({ python }: MarkerEnvironment): Variables {
  const [major = "3", minor = "0", patch = "0"] = python.split(".");
  return new Map([
    ["python_version", `${major}.${minor}`],
    ["python_full_version", `${major}.${minor}.${patch}`],
    ["implementation_version", `${major}.${minor}.${patch}`],
    ["sys_platform", "linux"],
    ["platform_system", "Linux"],
    ["platform_machine", "x86_64"],
    ["os_name", "posix"],
    ["implementation_name", "cpython"],
    ["platform_python_implementation", "CPython"],
    ["extra", ""],
  ]);
}
