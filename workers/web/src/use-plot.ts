/** Charts on a canvas: drawn in the theme's colours, again when the theme or the data change, and as wide as their box. */
import { type RefObject, useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

/** About one digit of the axis' 12 px type, and what is beside a label: tick, gap and the canvas' edge. */
const LABEL_CHARACTER_PX = 7;
const LABEL_MARGIN_PX = 22;
/** Below the drawing: tick, gap and one line of labels. */
const LABEL_LINE_PX = 32;

/** Between an axis' labels, where there is nothing between two whole numbers: up to a hundred million million. */
export const WHOLE_STEPS = Array.from({ length: 15 }, (_, power) => [1, 2, 5].map((step) => step * 10 ** power)).flat();

export interface PlotTheme {
  axis: uPlot.Axis;
  /** A colour of the page by its custom property, such as `--line-1`. */
  colour: (name: string) => string;
}

export interface Drawing {
  options: Omit<uPlot.Options, "width">;
  data: uPlot.AlignedData;
}

/** `draw` must be stable (`useCallback`): each new one draws anew. The box is given to the element to draw in. */
export function usePlot(draw: (theme: PlotTheme) => Drawing): RefObject<HTMLDivElement | null> {
  const box = useRef<HTMLDivElement>(null);
  const [isDark, setDark] = useState(() => matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => setDark(dark.matches);
    dark.addEventListener("change", follow);
    return () => dark.removeEventListener("change", follow);
  }, []);
  // biome-ignore lint/correctness/useExhaustiveDependencies: `isDark` is read through the computed colours; a change draws anew.
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const style = getComputedStyle(element);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const grid = { stroke: colour("--line"), width: 1 };
    const font = `12px ${colour("--sans")}`;
    const axis = { stroke: colour("--muted"), grid, ticks: grid, font, size: LABEL_LINE_PX };
    const { options, data } = draw({ axis, colour });
    const plot = new uPlot({ ...options, width: element.clientWidth }, data, element);
    const resize = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: options.height }));
    resize.observe(element);
    return () => {
      resize.disconnect();
      plot.destroy();
    };
  }, [draw, isDark]);
  return box;
}

/** Room for the longest of an axis' labels, so that none is clipped; `least` keeps short ones of several charts in line. */
export function labelWidth(labels: readonly string[] | null, least: number): number {
  const longest = Math.max(0, ...(labels ?? []).map((label) => label.length));
  return Math.max(least, longest * LABEL_CHARACTER_PX + LABEL_MARGIN_PX);
}
