// Charts drawn by hand (SVG), and what all charts share: numbers at axes, a frame, a cursor.

const SVG = "http://www.w3.org/2000/svg";
export const HEIGHT = 240;
export const MARGIN = { top: 26, right: 14, bottom: 40, left: 58 };

/** Round numbers that cover a range. */
export function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const raw = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  if (last <= first && count < 32) return ticks(low, high, 2 * count); // one number says nothing of the scale
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

export function rangeOf(values, padding = 0.06) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  const room = (high - low) * padding || Math.abs(high) * 0.05 || 0.5;
  return [low - room, high + room];
}

export function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

/** Where to put data on a surface of that width. */
export function frame(width, [xLow, xHigh], [yLow, yHigh], bottom = MARGIN.bottom) {
  const right = width - MARGIN.right;
  const floor = HEIGHT - bottom;
  return {
    left: MARGIN.left,
    right,
    top: MARGIN.top,
    floor,
    x: (value) => MARGIN.left + ((value - xLow) / (xHigh - xLow || 1)) * (right - MARGIN.left),
    y: (value) => floor - ((value - yLow) / (yHigh - yLow || 1)) * (floor - MARGIN.top),
  };
}

/** Calls back when the width of an element changes, at most once a frame. */
export function onResize(element, redraw) {
  let width = 0;
  let due = 0;
  new ResizeObserver(() => {
    if (element.clientWidth === width || due) return;
    due = requestAnimationFrame(() => {
      due = 0;
      width = element.clientWidth;
      redraw();
    });
  }).observe(element);
}

/** A picture of rows (SVG) with a cursor. Who extends it has `draw()`, `point(event)` and `moveTo(index or null)`. */
export class CursorChart {
  constructor(figure) {
    this.rows = [];
    this.cursor = null;
    this.plot = figure.querySelector(".plot");
    this.readout = figure.querySelector(".readout");
    this.surface = svg("svg", { role: "img", tabindex: 0, height: HEIGHT, class: "chart" });
    this.plot.append(this.surface);
    onResize(this.plot, () => this.draw());
    this.surface.addEventListener("pointermove", (event) => this.point(event));
    this.surface.addEventListener("pointerleave", () => this.moveTo(null));
    this.surface.addEventListener("blur", () => this.moveTo(null));
    this.surface.addEventListener("keydown", (event) => {
      const target = keyTarget(event, this.cursor, this.rows.length);
      if (target !== undefined) this.moveTo(target);
    });
  }
}

/**
 * Lines over epochs. Pointer and arrow keys move a cursor, whose values are read out below the chart.
 *
 * `lines`: [{name, key, kind}]; `kind` is a CSS class that gives colour and dashes. `area`: keys of two lines to fill
 * the space between. `tick(value, step)` writes a number at the axis; `describe(row)` gives the text of the read-out,
 * `summarize(rows)` that for screen readers.
 */
export class LineChart extends CursorChart {
  constructor(figure, { lines, area, tick, describe, summarize, yTitle }) {
    super(figure);
    Object.assign(this, { lines, area, tick, describe, summarize, yTitle });
  }

  /** Draw other rows: [{x, <key of a line>: number or null}], in order of x. */
  update(rows) {
    const following = this.cursor === null ? null : Math.min(this.cursor, rows.length - 1);
    this.rows = rows;
    this.cursor = rows.length ? following : null;
    this.surface.setAttribute("aria-label", `${this.summarize(rows)} Arrow keys move through the epochs.`);
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    this.surface.replaceChildren();
    if (!width || !this.rows.length) return;
    this.surface.setAttribute("width", width);
    const xs = this.rows.map((row) => row.x);
    const [first, last] = [xs[0], xs[xs.length - 1]];
    const values = this.rows.flatMap((row) => this.lines.map(({ key }) => row[key]).filter(Number.isFinite));
    const yRange = rangeOf(values);
    const place = frame(width, first === last ? [first - 1, last + 1] : [first, last], yRange);
    this.place = place;
    this.drawAxes(place, [first, last], yRange, width);
    if (this.area) this.surface.append(svg("path", { d: this.areaPath(place), class: "area" }));
    for (const { key, kind } of this.lines) {
      this.surface.append(svg("path", { d: this.linePath(place, key), class: `line ${kind}` }));
    }
    this.marks = svg("g", { class: "marks" });
    this.surface.append(this.marks);
    this.drawCursor();
  }

  drawAxes(place, [first, last], [low, high], width) {
    const heights = ticks(low, high, 4);
    for (const value of heights) {
      const y = place.y(value);
      this.surface.append(
        svg("line", { x1: place.left, x2: place.right, y1: y, y2: y, class: "grid" }),
        svg("text", { x: place.left - 8, y: y + 4, class: "tick y" }, this.tick(value, heights[1] - heights[0])),
      );
    }
    for (const value of ticks(first, last, Math.max(2, Math.floor(width / 110))).filter(Number.isInteger)) {
      this.surface.append(svg("text", { x: place.x(value), y: place.floor + 17, class: "tick x" }, String(value)));
    }
    this.surface.append(
      svg("line", { x1: place.left, x2: place.right, y1: place.floor, y2: place.floor, class: "axis" }),
      svg("text", { x: (place.left + place.right) / 2, y: HEIGHT - 6, class: "title x" }, "epoch"),
      svg("text", { x: 0, y: 12, class: "title" }, this.yTitle),
    );
  }

  linePath(place, key) {
    let pen = "M";
    let path = "";
    for (const row of this.rows) {
      if (!Number.isFinite(row[key])) {
        pen = "M";
        continue;
      }
      path += `${pen}${place.x(row.x).toFixed(1)} ${place.y(row[key]).toFixed(1)}`;
      pen = "L";
    }
    return this.rows.length === 1 && path ? `${path}h0.01` : path; // one value: a dot, by the round line cap
  }

  areaPath(place) {
    const rows = this.rows.filter((row) => this.area.every((key) => Number.isFinite(row[key])));
    const side = (list, key) =>
      list.map((row) => `${place.x(row.x).toFixed(1)} ${place.y(row[key]).toFixed(1)}`).join("L");
    return rows.length ? `M${side(rows, this.area[0])}L${side([...rows].reverse(), this.area[1])}Z` : "";
  }

  drawCursor() {
    const row = this.cursor === null ? null : this.rows[this.cursor];
    this.readout.textContent = this.describe(row ?? this.rows[this.rows.length - 1]);
    this.marks.replaceChildren();
    if (row === null) return;
    const x = this.place.x(row.x);
    this.marks.append(svg("line", { x1: x, x2: x, y1: this.place.top, y2: this.place.floor, class: "cursor" }));
    for (const { key, kind } of this.lines) {
      if (Number.isFinite(row[key])) {
        this.marks.append(svg("circle", { cx: x, cy: this.place.y(row[key]), r: 4, class: `dot ${kind}` }));
      }
    }
  }

  moveTo(index) {
    if (index === this.cursor || !this.rows.length) return;
    this.cursor = index;
    if (this.marks) this.drawCursor();
  }

  point(event) {
    if (!this.place || !this.rows.length) return;
    const x = event.clientX - this.surface.getBoundingClientRect().left;
    let nearest = 0;
    this.rows.forEach((row, index) => {
      if (Math.abs(this.place.x(row.x) - x) < Math.abs(this.place.x(this.rows[nearest].x) - x)) nearest = index;
    });
    this.moveTo(nearest);
  }
}

/** Where an arrow key leads to in a list; undefined for other keys. */
export function keyTarget(event, current, length) {
  if (event.ctrlKey || event.metaKey || event.altKey || !length) return undefined;
  const last = length - 1;
  const targets = {
    ArrowLeft: current === null ? last : Math.max(0, current - 1),
    ArrowRight: current === null ? 0 : Math.min(last, current + 1),
    Home: 0,
    End: last,
    Escape: null,
  };
  if (!(event.key in targets)) return undefined;
  event.preventDefault();
  return targets[event.key];
}
