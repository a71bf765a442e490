// What the predictor knows: which operation helps where, and how its predictions compare with the scores.

import { CursorChart, HEIGHT, frame, rangeOf, svg, ticks } from "./board_charts.js";
import { h, optionText, tickPlain } from "./board_views.js";

const SURE = 2; // standard deviations: a gain below that may be noise
const SIGNED = { signDisplay: "exceptZero", minimumFractionDigits: 2, maximumFractionDigits: 2 };
const signed = new Intl.NumberFormat("en-US", SIGNED);
const minus = (text) => text.replace("-", "−");

/** Tables of gains, one for the labels that share their values: a row a label, a column a value. */
export function gainTables({ choices, predictor: { gains, stds } }, legend) {
  const rows = Object.entries(choices).map(([label, options], at) => {
    return { label, options, gains: gains[at], stds: stds[at] };
  });
  const most = Math.max(...rows.flatMap((row) => row.gains.map(Math.abs))) || 1;
  const groups = Map.groupBy(rows, ({ options }) => JSON.stringify(options));
  return [...groups.values()].map((group) => {
    const texts = group[0].options.map(optionText);
    const heads = texts.map((text) =>
      h(
        "th",
        { scope: "col", title: text },
        h("span", { "aria-hidden": "true" }, legend.block(text)),
        h("span", { class: "unseen" }, text),
      ),
    );
    return h(
      "table",
      { class: "gains" },
      h("caption", { class: "unseen" }, "Gain of each value, label by label"),
      h("thead", {}, h("tr", {}, h("td", {}), heads)),
      h(
        "tbody",
        {},
        group.map((row) => h("tr", {}, h("th", { scope: "row" }, row.label), gainCells(row, texts, most))),
      ),
    );
  });
}

function gainCells({ label, gains, stds }, texts, most) {
  return gains.map((gain, at) => {
    if (gain === null) {
      const why = `${label}, ${texts[at]}: no path had it`;
      const mark = h("span", { "aria-hidden": "true" }, "–");
      return h("td", { class: "gain", title: why }, mark, h("span", { class: "unseen" }, "no path had it"));
    }
    const sure = Math.abs(gain) > SURE * stds[at];
    const kind = gain < 0 ? "hurts" : "helps";
    const title = `${label}, ${texts[at]}: ${minus(String(gain))} ± ${stds[at]}${sure ? "" : ", may be noise"}`;
    const unsure = sure ? null : h("span", { class: "unseen" }, " (may be noise)");
    const written = h("data", { value: gain }, minus(signed.format(gain)));
    const cell = h("td", { class: `gain ${kind}${sure ? "" : " unsure"}`, title }, written, unsure);
    cell.style.setProperty("--strength", Math.abs(gain) / most);
    return cell;
  });
}

/**
 * Predicted quality against score (SVG). Pointer and arrow keys move a cursor, whose point is read out below.
 *
 * `tick(value, step)` writes a score at the axis; `describe(row or null)` the nodes of the read-out, `summarize(rows)` the
 * text for screen readers.
 */
export class PredictionChart extends CursorChart {
  constructor(figure, { tick, describe, summarize }) {
    super(figure);
    Object.assign(this, { tick, describe, summarize });
  }

  /** Draw other rows: [{path, epoch, predicted, score}]. */
  update(rows) {
    this.latest = rows.at(-1)?.epoch;
    this.rows = [...rows].sort((a, b) => a.predicted - b.predicted);
    this.cursor = null;
    this.surface.setAttribute("aria-label", `${this.summarize(rows)} Arrow keys move through the candidates.`);
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    this.surface.replaceChildren();
    if (!width || !this.rows.length) return;
    this.surface.setAttribute("width", width);
    const xRange = rangeOf(this.rows.map((row) => row.predicted));
    const yRange = rangeOf(this.rows.map((row) => row.score));
    this.place = frame(width, xRange, yRange);
    this.drawAxes(xRange, yRange, width);
    for (const row of this.rows) {
      const kind = row.epoch === this.latest ? "latest" : "earlier";
      this.surface.append(svg("circle", { ...this.centre(row), r: 3.5, class: `prediction ${kind}` }));
    }
    this.mark = svg("g", {});
    this.surface.append(this.mark);
    this.show();
  }

  drawAxes(xRange, yRange, width) {
    const { left, right, floor, x, y } = this.place;
    const [heights, widths] = [ticks(...yRange, 4), ticks(...xRange, Math.max(2, Math.floor(width / 110)))];
    const text = (attributes, content) => this.surface.append(svg("text", attributes, content));
    for (const value of heights) {
      this.surface.append(svg("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }));
      text({ x: left - 8, y: y(value) + 4, class: "tick y" }, this.tick(value, heights[1] - heights[0]));
    }
    for (const value of widths) {
      text({ x: x(value), y: floor + 17, class: "tick x" }, minus(tickPlain(value, widths[1] - widths[0])));
    }
    this.surface.append(svg("line", { x1: left, x2: right, y1: floor, y2: floor, class: "axis" }));
    text({ x: (left + right) / 2, y: HEIGHT - 6, class: "title x" }, "predicted quality");
    text({ x: 0, y: 12, class: "title" }, "score");
  }

  centre(row) {
    return { cx: this.place.x(row.predicted), cy: this.place.y(row.score) };
  }

  moveTo(index) {
    if (index === this.cursor || !this.rows.length) return;
    this.cursor = index;
    this.show();
  }

  show() {
    const row = this.cursor === null ? null : this.rows[this.cursor];
    this.readout.replaceChildren(...this.describe(row));
    this.mark?.replaceChildren(...(row ? [svg("circle", { ...this.centre(row), r: 7, class: "found" })] : []));
  }

  point(event) {
    if (!this.place) return;
    const box = this.surface.getBoundingClientRect();
    let [best, found] = [20 ** 2, null];
    this.rows.forEach((row, index) => {
      const { cx, cy } = this.centre(row);
      const distance = (cx - event.clientX + box.left) ** 2 + (cy - event.clientY + box.top) ** 2;
      if (distance <= best) [best, found] = [distance, index];
    });
    this.moveTo(found);
  }
}
