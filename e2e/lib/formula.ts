/**
 * Computes a spreadsheet's formula from its text, as a spreadsheet does: doubles shown to 15 digits before they are rounded, half away from zero. It knows
 * numbers, names of columns, `+ - * /`, brackets and ROUND, which is what bills need, and nothing of the system whose bills it checks.
 */
const TOKEN = /\s*(?:(\d+(?:\.\d+)?)|([A-Za-z_]+)|(.))/gy;

/** `cell`: the number in the column of that name. */
export function computeFormula(text: string, cell: (column: string) => number): number {
  const tokens = [...text.trim().replace(/^=/, "").matchAll(TOKEN)].map(([, number, name, sign]) => ({
    ...{ number, name, sign },
  }));
  let at = 0;
  const takes = (sign: string): boolean => {
    if (tokens[at]?.sign !== sign) return false;
    at += 1;
    return true;
  };
  const need = (sign: string): void => {
    if (!takes(sign)) throw new Error(`the formula has no ${sign} at part ${at}: ${text}`);
  };

  function sum(): number {
    let value = product();
    for (;;) {
      if (takes("+")) value += product();
      else if (takes("-")) value -= product();
      else return value;
    }
  }

  function product(): number {
    let value = factor();
    for (;;) {
      if (takes("*")) value *= factor();
      else if (takes("/")) value /= factor();
      else return value;
    }
  }

  function factor(): number {
    if (takes("-")) return -factor();
    if (takes("(")) {
      const value = sum();
      need(")");
      return value;
    }
    const token = tokens[at++];
    if (token?.number !== undefined) return Number(token.number);
    if (token?.name === undefined) throw new Error(`the formula has no value at part ${at - 1}: ${text}`);
    if (token.name.toUpperCase() !== "ROUND") return cell(token.name);
    need("(");
    const value = sum();
    need(",");
    const digits = sum();
    need(")");
    return round(value, digits);
  }

  const value = sum();
  if (at < tokens.length) throw new Error(`the formula goes on at part ${at}: ${text}`);
  return value;
}

function round(value: number, digits: number): number {
  const scale = 10 ** digits;
  const shown = Number((value * scale).toPrecision(15));
  return (Math.sign(shown) * Math.floor(Math.abs(shown) + 0.5)) / scale;
}
