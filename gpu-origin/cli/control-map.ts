/** Whether docs/security.md still leads somewhere: its tables name the code of each control and the test that shows it. Pure. */

const CELL = { code: 3, test: 4 };
const NAMED = /`([^`\s]+(?:\.tsx?|\.json|\/))`(?: \("([^"]+)"\))?/g;

/**
 * What a map in Markdown names and nobody finds, one line each; also a control without code or test. `files` are the paths of the repository, `read` gives
 * one's text. A name without folders is beside the one before it; `*` stands for any letters; `("…")` behind a test is part of that test's title.
 */
export function lostControls(map: string, files: readonly string[], read: (path: string) => string): string[] {
  const lost: string[] = [];
  for (const row of map.split("\n").filter((line) => line.startsWith("| ") && !/^\| (?:---|item|threat) /.test(line))) {
    const cells = row.split(" | ");
    const control = cells[0]?.slice(2) ?? "";
    for (const [what, n] of Object.entries(CELL)) {
      const cell = cells[n - 1] ?? "";
      if (!/\w/.test(cell)) lost.push(`${control}: no ${what}`);
      let folder = "";
      for (const [, name = "", title] of cell.matchAll(NAMED)) {
        const path = name.includes("/") ? name : folder + name;
        folder = path.slice(0, path.lastIndexOf("/") + 1);
        const found = files.filter((file) => isNamed(file, path));
        if (found.length === 0) lost.push(`${control}: ${path} is not there`);
        else if (title !== undefined && !found.some((file) => read(file).includes(title))) {
          lost.push(`${control}: ${path} has no test "${title}"`);
        }
      }
    }
  }
  return lost;
}

function isNamed(file: string, path: string): boolean {
  if (path.endsWith("/")) return file.startsWith(path);
  const [start = "", end] = path.split("*");
  return end === undefined ? file === path : file.startsWith(start) && file.endsWith(end);
}
