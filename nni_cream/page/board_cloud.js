// The cloud of all scored paths: a canvas, for tens of thousands of points.

import { HEIGHT, MARGIN, frame, keyTarget, onResize, rangeOf, ticks } from "./board_charts.js";

/**
 * A cloud of points with its Pareto front. Two canvases lie on top of each other: the points, drawn when there are new
 * ones, and the cursor. Arrow keys walk along the front; the pointer finds any point.
 *
 * `describe(point)` returns nodes for the read-out; `axes()` title and tick format of the two axes.
 */
export class PointCloud {
  constructor(figure, { describe, summarize, axes }) {
    Object.assign(this, { describe, summarize, axes });
    this.points = [];
    this.front = [];
    this.board = [];
    this.cursor = null; // place on the front
    this.found = null;
    this.plot = figure.querySelector(".plot");
    this.readout = figure.querySelector(".readout");
    [this.base, this.overlay] = ["points", "cursor"].map((name) => {
      const canvas = document.createElement("canvas");
      canvas.className = `layer ${name}`;
      this.plot.append(canvas);
      return canvas;
    });
    this.base.setAttribute("aria-hidden", "true");
    this.overlay.tabIndex = 0;
    this.overlay.setAttribute("role", "img");
    onResize(this.plot, () => this.draw());
    for (const query of ["(prefers-color-scheme: dark)", `(resolution: ${devicePixelRatio}dppx)`]) {
      matchMedia(query).addEventListener("change", () => this.draw());
    }
    this.overlay.addEventListener("pointermove", (event) => this.point(event));
    this.overlay.addEventListener("pointerleave", () => this.show(null));
    this.overlay.addEventListener("blur", () => this.show(null));
    this.overlay.addEventListener("keydown", (event) => this.step(event));
  }

  /** Draw other points. */
  update(points, front, board) {
    Object.assign(this, { points, front, board });
    if (!points.includes(this.found) && !board.includes(this.found)) this.found = null;
    this.cursor = this.found && front.includes(this.found) ? front.indexOf(this.found) : null;
    this.overlay.setAttribute("aria-label", `${this.summarize()} Arrow keys walk along the Pareto front.`);
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    const style = getComputedStyle(this.plot);
    this.colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const pen = this.pen(this.base, width);
    this.place = null;
    if (this.points.length) {
      const scored = this.points.filter((point) => point.accuracy !== null);
      const xRange = rangeOf(
        this.points.map((point) => point.cost),
        0.03,
      );
      const yRange = rangeOf([...scored, ...this.board].map((point) => point.accuracy));
      this.rug = scored.length < this.points.length;
      this.place = frame(width, xRange, yRange, MARGIN.bottom + (this.rug ? 10 : 0));
      this.drawAxes(pen, xRange, yRange, width);
      this.drawPoints(pen);
    }
    this.show(this.found);
  }

  pen(canvas, width) {
    const scale = devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(HEIGHT * scale);
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    return pen;
  }

  drawAxes(pen, [xLow, xHigh], [yLow, yHigh], width) {
    const { place } = this;
    const axes = this.axes();
    pen.font = `11px ${getComputedStyle(this.plot).fontFamily}`;
    pen.fillStyle = this.colour("muted");
    pen.strokeStyle = this.colour("line");
    pen.lineWidth = 1;
    const stroke = (...ends) => {
      pen.beginPath();
      pen.moveTo(ends[0], Math.round(ends[1]) + 0.5);
      pen.lineTo(ends[2], Math.round(ends[3]) + 0.5);
      pen.stroke();
    };
    pen.textAlign = "right";
    const heights = ticks(yLow, yHigh, 4);
    for (const value of heights) {
      stroke(place.left, place.y(value), place.right, place.y(value));
      pen.fillText(axes.y.tick(value, heights[1] - heights[0]), place.left - 8, place.y(value) + 4);
    }
    const bottom = HEIGHT - MARGIN.bottom;
    pen.textAlign = "center";
    for (const value of ticks(xLow, xHigh, Math.max(2, Math.floor(width / 120)))) {
      pen.fillText(axes.x.tick(value), place.x(value), bottom + 17);
    }
    pen.strokeStyle = this.colour("axis");
    stroke(place.left, bottom, place.right, bottom);
    pen.fillText(axes.x.title, (place.left + place.right) / 2, HEIGHT - 6);
    pen.textAlign = "left";
    pen.fillText(axes.y.title, 0, 12);
  }

  drawPoints(pen) {
    const { place } = this;
    const [alpha, size] = this.points.length > 2000 ? [0.3, 3] : [0.65, 4.5];
    pen.globalAlpha = alpha;
    pen.fillStyle = this.colour("point");
    for (const { accuracy, cost } of this.points) {
      if (accuracy !== null) pen.fillRect(place.x(cost) - size / 2, place.y(accuracy) - size / 2, size, size);
    }
    pen.globalAlpha = 0.5;
    if (this.rug) {
      pen.fillStyle = this.colour("bad");
      const bottom = HEIGHT - MARGIN.bottom - 8;
      for (const { accuracy, cost } of this.points) if (accuracy === null) pen.fillRect(place.x(cost), bottom, 1, 7);
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = this.colour("front");
    pen.lineWidth = 2;
    pen.beginPath();
    this.front.forEach(({ cost, accuracy }, index) => {
      const [x, y] = [place.x(cost), place.y(accuracy)];
      if (index) pen.lineTo(x, place.y(this.front[index - 1].accuracy));
      pen.lineTo(x, y);
    });
    pen.stroke();
    pen.fillStyle = this.colour("front");
    for (const { cost, accuracy } of this.front) {
      const [x, y] = [place.x(cost), place.y(accuracy)];
      pen.beginPath(); // diamonds, which colour alone would not tell from the other points
      pen.moveTo(x, y - 4.5);
      pen.lineTo(x + 4.5, y);
      pen.lineTo(x, y + 4.5);
      pen.lineTo(x - 4.5, y);
      pen.fill();
    }
    pen.strokeStyle = this.colour("accent");
    pen.lineWidth = 1.75;
    for (const { cost, accuracy } of this.board) {
      pen.beginPath();
      pen.arc(place.x(cost), place.y(accuracy), 5.5, 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  /** Mark a point and read it out; null for none. */
  show(point) {
    this.found = point;
    const pen = this.pen(this.overlay, this.plot.clientWidth);
    if (point && this.place) {
      pen.strokeStyle = this.colour("ink");
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(this.place.x(point.cost), this.place.y(point.accuracy), 8, 0, 2 * Math.PI);
      pen.stroke();
    }
    this.readout.replaceChildren(...this.describe(point));
  }

  point(event) {
    if (!this.place) return;
    const box = this.overlay.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = 20 ** 2;
    let found = null;
    for (const list of [this.points, this.board]) {
      for (const point of list) {
        if (point.accuracy === null) continue;
        const distance = (this.place.x(point.cost) - x) ** 2 + (this.place.y(point.accuracy) - y) ** 2;
        if (distance <= best) [best, found] = [distance, point];
      }
    }
    this.cursor = null;
    if (found !== this.found) this.show(found);
  }

  step(event) {
    const target = keyTarget(event, this.cursor, this.front.length);
    if (target === undefined) return;
    this.cursor = target;
    this.show(target === null ? null : this.front[target]);
  }
}
