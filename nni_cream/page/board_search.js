// Everything that a page shows of one search. The board page and reports share it.

import { LineChart } from "./board_charts.js";
import { PointCloud } from "./board_cloud.js";
import { Search, finalEntries, kendall } from "./board_model.js";
import { PredictionChart, gainTables } from "./board_predictor.js";
import * as views from "./board_views.js";

const { h } = views;
const COMPARED = 10; // candidates, for a rank correlation
const COSTS = { macs: "multiply-adds", params: "parameters", latency: "latency" };

export const $ = (selector) => document.querySelector(selector);

/** Give a table other rows, and hide it if there are none. */
export function fill(table, rows) {
  $(`${table} > tbody`).replaceChildren(...rows);
  $(table).hidden = !rows.length;
}

/** Say what is waited for, in place of what is not there yet; nothing if there is something. */
export function empty(selector, text) {
  $(selector).hidden = !text;
  $(selector).textContent = text;
  $(selector).parentElement.classList.toggle("is-empty", Boolean(text));
}

/** The cost that ranks equals and that tables show: the first of several. */
function primaryCost(settings) {
  return String([settings.cost ?? "cost"].flat()[0]);
}

/** What the cost of a search counts, in words. */
export function costTitleOf(settings) {
  const cost = primaryCost(settings);
  return COSTS[cost] ?? cost.split(":").pop();
}

/** Top-1 accuracies are percentages, latencies milliseconds; of a user's own score or cost, the unit is unknown. */
export function formatsOf(settings) {
  const isTop1 = (settings.score ?? "top1") === "top1";
  const isLatency = primaryCost(settings) === "latency";
  return {
    accuracy: isTop1 ? views.formatPercent : views.formatPlain,
    tick: isTop1 ? views.tickPercent : views.tickPlain,
    cost: isLatency ? views.formatMilliseconds : views.formatCost,
    costTick: isLatency ? (seconds) => `${views.formatShortCost(1000 * seconds)} ms` : views.formatShortCost,
  };
}

/** Sum up a line for those who do not see it: where it begins and ends. */
export function summarize(rows, key, what, format) {
  const known = rows.filter((row) => Number.isFinite(row[key]));
  if (!known.length) return `${what}: nothing yet.`;
  const [first, last] = [known[0], known[known.length - 1]];
  return `${what}: ${format(first[key])} in epoch ${first.x}, ${format(last[key])} in epoch ${last.x}.`;
}

/** The parts of the page that show one search at a time; their markup is in board.html. */
export class SearchView {
  constructor() {
    this.search = new Search();
    this.legend = new views.Legend(null);
    this.formats = formatsOf({});
    this.costTitle = "cost";
    this.progress = this.progressChart();
    this.weight = this.weightChart();
    this.cloud = this.cloudChart();
    this.predictions = this.predictionChart();
    // The long table is made only while somebody looks at it.
    $("#epochs-details").addEventListener("toggle", () => this.drawEpochs());
  }

  // Charts ----------------------------------------------------------------------------------------------------------

  progressChart() {
    return new LineChart($("#progress"), {
      lines: [
        { key: "worst", kind: "third" },
        { key: "mean", kind: "second" },
        { key: "best", kind: "first" },
      ],
      area: ["best", "worst"],
      yTitle: "one-shot accuracy",
      tick: (value, step) => this.formats.tick(value, step),
      describe: ({ x, best, mean, worst }) =>
        best === null
          ? `Epoch ${x}: warm-up, the board is empty`
          : `Epoch ${x}: ${Object.entries({ best, mean, worst })
              .map(([name, value]) => `${name} ${this.formats.accuracy(value)}`)
              .join(", ")}`,
      summarize: (rows) =>
        summarize(rows, "best", "Accuracy of the board's best entry", (value) => this.formats.accuracy(value)),
    });
  }

  weightChart() {
    return new LineChart($("#weight"), {
      lines: [{ key: "weight", kind: "first" }],
      yTitle: "ρ",
      tick: views.tickPlain,
      describe: ({ x, weight }) =>
        weight === null ? `Epoch ${x}: no teachers` : `Epoch ${x}: mean match weight ${views.formatWeight(weight)}`,
      summarize: (rows) => summarize(rows, "weight", "Mean match weight", views.formatWeight),
    });
  }

  cloudChart() {
    return new PointCloud($("#cloud"), {
      axes: () => ({
        x: { title: this.costTitle, tick: this.formats.costTick },
        y: { title: "one-shot accuracy", tick: this.formats.tick },
      }),
      describe: (point) => this.describePoint(point),
      summarize: () => {
        const { points, front } = this.search;
        const ends = [front[0], front[front.length - 1]];
        const figures = ends.map((point) => point && this.describeFigures(point)).join(", up to ");
        return `Accuracy against cost of ${points.length} scored paths. Pareto front of ${front.length}, from ${figures}.`;
      },
    });
  }

  predictionChart() {
    return new PredictionChart($("#predicted"), {
      tick: (value, step) => this.formats.tick(value, step),
      describe: (row) => {
        if (!row) return [describePredictions(this.search.predictions)];
        const score = this.formats.accuracy(row.score);
        const figures = `predicted ${row.predicted.toFixed(2)}, score ${score}, epoch ${row.epoch}`;
        return [this.legend.path(row.path), ` ${figures}`];
      },
      summarize: (rows) => `Predicted quality against score. ${describePredictions(rows)}`,
    });
  }

  describeFigures({ accuracy, cost }) {
    return `${this.formats.accuracy(accuracy)} at ${this.formats.cost(cost)} ${this.costTitle}`;
  }

  describePoint(point) {
    if (!point) {
      const early = this.search.totals.rejectedEarly;
      const count = `${views.formatCount(this.search.points.length)} paths scored`;
      return [early ? `${count}, ${views.formatCount(early)} of them rejected early (marks at the bottom)` : count];
    }
    return [this.legend.path(point.path), ` ${this.describeFigures(point)}, step ${views.formatCount(point.step)}`];
  }

  // Drawing ---------------------------------------------------------------------------------------------------------

  /**
   * Show a search.
   *
   * `settings`: the section `search` of its configuration. `final`: what it reported at its end, null before.
   * `waiting`: why there is nothing to see where there is nothing.
   */
  draw(search, settings, final, waiting) {
    const { formats } = Object.assign(this, { search, formats: formatsOf(settings), costTitle: costTitleOf(settings) });
    const legend = (this.legend = new views.Legend(search.choices));
    $("#cost-title").textContent = this.costTitle[0].toUpperCase() + this.costTitle.slice(1);
    document.documentElement.style.setProperty("--code", legend.width);
    $("#legend").replaceChildren(...legend.list());
    search.validate(finalEntries(final));
    $("#board").classList.toggle("is-validated", search.validated);
    this.drawTiles(settings);
    fill("#board", views.boardRows(search, legend, formats));
    fill("#front", views.frontRows(search, legend, formats));
    fill("#teachers", views.teacherRows(search, legend));
    $("#changes").replaceChildren(...views.changeItems(search, legend, formats));
    $("#statistics").replaceChildren(...views.statistics(search, formats));
    this.drawCharts();
    this.drawEpochs();
    const hasBoard = search.board.length > 0;
    empty("#board-empty", hasBoard ? "" : waiting);
    empty("#changes-empty", search.changes.length ? "" : waiting);
    empty("#cloud > .empty", search.points.length ? "" : waiting);
    empty("#progress > .empty", hasBoard ? "" : waiting);
    empty("#statistics-empty", search.latest ? "" : waiting);
    const matchless = settings.matching?.name === "none" ? "This search matches no teachers (matching: none)." : waiting;
    empty("#teachers-empty", search.taught.size ? "" : matchless);
    empty("#weight > .empty", search.taught.size ? "" : matchless);
  }

  /** Drawn after the search, whose legend it shares. */
  drawPredictor(search, waiting) {
    const unknown = search.latest ? search.unpredicted : waiting;
    empty("#helps > .empty", unknown ?? "");
    $("#gains").replaceChildren(...(unknown ? [] : gainTables(search, this.legend)));
    empty("#predicted > .empty", search.predictions.length ? "" : (unknown ?? "Waiting for the first scored candidate."));
    this.predictions.update(search.predictions);
  }

  drawTiles(settings) {
    const { latest, board, points, taught } = this.search;
    const tile = (term, value, extra) =>
      h("div", {}, h("dt", {}, term), h("dd", {}, value, extra ? h("small", {}, extra) : null));
    $("#tiles").replaceChildren(
      tile("Best", board.length ? this.formats.accuracy(board[0].validated ?? board[0].accuracy) : "–"),
      tile("Entries", String(board.length), settings.board_size ? ` of ${settings.board_size}` : ""),
      tile("Epoch", latest ? String(latest.epoch) : "–", settings.epochs ? ` of ${settings.epochs}` : ""),
      tile("Scored", views.formatCount(points.length), " paths"),
      tile("Match weight", taught.size && latest ? views.formatWeight(latest.figures.match_weight ?? 0) : "–"),
    );
  }

  drawCharts() {
    const { epochs, taught, points, front, board } = this.search;
    const value = (epoch, key) => (epoch.size && Number.isFinite(epoch.figures[key]) ? epoch.figures[key] : null);
    this.progress.update(
      epochs.map((epoch) => ({
        x: epoch.epoch,
        best: value(epoch, "board_best"),
        mean: value(epoch, "board_mean"),
        worst: value(epoch, "board_worst"),
      })),
    );
    const weight = (epoch) => (epoch.figures.match_weight > 0 ? epoch.figures.match_weight : null);
    this.weight.update(taught.size ? epochs.map((epoch) => ({ x: epoch.epoch, weight: weight(epoch) })) : []);
    this.cloud.update(points, front, board);
  }

  drawEpochs() {
    if ($("#epochs-details").open) fill("#epochs", views.epochRows(this.search, this.formats));
  }
}

function describePredictions(rows) {
  const count = rows.length === 1 ? "1 candidate" : `The latest ${views.formatCount(rows.length)} candidates`;
  const tau = rows.length < COMPARED ? null : kendall(rows);
  if (tau === null) return `${count}: too few to compare.`;
  return `${count}: Kendall's τ ${tau.toFixed(2).replace("-", "−")} within an epoch.`;
}
