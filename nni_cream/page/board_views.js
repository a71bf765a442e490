// The parts of the page that are made of DOM. Names and values only ever enter as text, never as markup.

import { pathKey, placesOf } from "./board_model.js";

const HUES = [212, 32, 158, 328, 52, 268, 190, 8];
const PATTERNS = ["plain", "rising", "level", "dots", "falling", "upright"];
const LONGEST_CODE = 6;
const CHANGED_PATHS_SHOWN = 60;
const TEACHERS_SHOWN = 12;

/** An element with attributes and children; text is text. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(key, String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Numbers -----------------------------------------------------------------------------------------------------------

const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const plain = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 5 });
const threeDigits = new Intl.NumberFormat("en-US", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 4 });

export const formatCount = (value) => grouped.format(value);
export const formatCost = (value) => (Number.isInteger(value) ? grouped.format(value) : plain.format(value));
export const formatShortCost = (value) => compact.format(value);
export const formatMilliseconds = (seconds) => `${threeDigits.format(1000 * seconds)} ms`;
export const formatPlain = (value) => plain.format(value);
export const formatPercent = (value) => `${(100 * value).toFixed(2)} %`;
export const formatWeight = (value) => value.toFixed(3);

const digits = (step) => Math.min(6, Math.max(0, Math.ceil(-Math.log10(step || 1) - 1e-9)));
export const tickPercent = (value, step) => `${(100 * value).toFixed(digits(100 * step))} %`;
export const tickPlain = (value, step) => (Math.abs(value) < 1e5 ? value.toFixed(digits(step)) : compact.format(value));

/** A number as people read it, with the exact one where programs and the curious find it. */
function exact(value, format) {
  return h("data", { value, title: value }, format(value));
}

const number = (value, format, kind = "number") =>
  h("td", { class: kind }, Number.isFinite(value) ? exact(value, format) : "–");

// Paths -------------------------------------------------------------------------------------------------------------

/** How an option of a choice is written. */
export function optionText(option) {
  return typeof option === "string" ? option : (JSON.stringify(option) ?? "?");
}

function shortCode(text) {
  const last = /[a-z]/i.test(text) ? text.split(".").pop() || text : text;
  if (last.length <= 4) return last;
  const words = last.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  const code = words.length > 1 ? words.map((word) => (/\d/.test(word) ? word : word[0])).join("") : last.slice(0, 4);
  return code.slice(0, LONGEST_CODE);
}

/** Colour, pattern and code of every option that a space has. */
export class Legend {
  constructor(choices) {
    this.labels = Object.keys(choices ?? {});
    this.choices = choices ?? {};
    this.marks = new Map();
    const codes = new Set();
    for (const options of Object.values(this.choices)) {
      for (const option of options) {
        const text = optionText(option);
        if (this.marks.has(text)) continue;
        const index = this.marks.size;
        let code = shortCode(text);
        if (codes.has(code)) code = `${code.slice(0, 3)}~${index + 1}`;
        codes.add(code);
        const round = Math.floor(index / HUES.length);
        const pattern = PATTERNS[(index + round) % PATTERNS.length];
        this.marks.set(text, { text, code, hue: HUES[index % HUES.length], pattern });
      }
    }
    this.width = Math.max(1, ...[...codes].map((code) => code.length));
  }

  /** The options chosen along a path: [[label, text of each option]]. */
  chosen(path) {
    return path.map((place, index) => {
      const label = this.labels[index] ?? `choice ${index + 1}`;
      const options = this.choices[label] ?? [];
      const places = Array.isArray(place) ? place : [place];
      return [label, places.map((item) => (item in options ? optionText(options[item]) : `option ${item}`))];
    });
  }

  describe(path) {
    return this.chosen(path)
      .map(([label, texts]) => `${label}: ${texts.join(" + ")}`)
      .join(", ");
  }

  block(text) {
    const mark = this.marks.get(text) ?? { code: text, hue: 220, pattern: "plain" };
    const block = h("span", { class: `block ${mark.pattern}` }, mark.code);
    block.style.setProperty("--hue", mark.hue);
    return block;
  }

  /** A path as coloured blocks, one for each layer; as words for those who do not see them. */
  path(path) {
    const chosen = this.chosen(path);
    const blocks = chosen.map(([label, texts]) => {
      const group = h("span", { class: "layer", title: `${label}: ${texts.join(" + ")}` });
      group.append(...(texts.length ? texts.map((text) => this.block(text)) : [this.block("–")]));
      return group;
    });
    return h(
      "span",
      { class: "path" },
      h("span", { class: "blocks", "aria-hidden": "true" }, blocks),
      h("span", { class: "unseen" }, this.describe(path)),
    );
  }

  list() {
    return [...this.marks.values()].map(({ text }) => h("li", {}, this.block(text), h("span", {}, text)));
  }
}

// Tables and lists --------------------------------------------------------------------------------------------------

/** Rows of the board. Roles are written out, since a browser forgets those of a table that a phone shows as a grid. */
export function boardRows(search, legend, format) {
  const cell = (value, written, kind) => h("td", { role: "cell", class: `number ${kind}` }, exact(value, written));
  return search.board.map(({ path, accuracy, cost, step, validated }, index) =>
    h(
      "tr",
      { role: "row", "data-path": pathKey(path) },
      h("th", { role: "rowheader", scope: "row", class: "rank" }, String(index + 1)),
      h("td", { role: "cell", class: "architecture" }, legend.path(path)),
      cell(accuracy, format.accuracy, "accuracy"),
      search.validated ? cell(validated, format.accuracy, "validated") : null,
      cell(cost, format.cost, "cost"),
      cell(search.step - step, (age) => `${formatCount(age)} steps`, "age"),
    ),
  );
}

export function changeItems(search, legend, format) {
  const items = [];
  let shown = 0;
  for (const change of [...search.changes].reverse()) {
    if (shown >= CHANGED_PATHS_SHOWN) break;
    shown += change.entered.length + change.left.length;
    const line = (sign, word, { path, accuracy, cost }) =>
      h(
        "li",
        { class: word },
        h("span", { class: "sign", "aria-hidden": "true" }, sign),
        h("span", { class: "word" }, word),
        legend.path(path),
        Number.isFinite(accuracy)
          ? h("span", { class: "figures" }, exact(accuracy, format.accuracy), " at ", exact(cost, format.cost))
          : null,
      );
    items.push(
      h(
        "li",
        { class: "change" },
        h("h3", {}, `Epoch ${change.epoch}`, h("small", {}, ` step ${formatCount(change.step)}`)),
        h(
          "ul",
          {},
          change.entered.map((entry) => line("+", "entered", entry)),
          change.left.map((entry) => line("−", "left", entry)),
        ),
      ),
    );
  }
  return items;
}

export function teacherRows(search, legend) {
  const teachers = search.teachers;
  const total = teachers.reduce((sum, teacher) => sum + teacher.total, 0);
  const rank = new Map(search.board.map((entry, index) => [pathKey(entry.path), index + 1]));
  return teachers.slice(0, TEACHERS_SHOWN).map((teacher) => {
    const share = teacher.total / total;
    const bar = h("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", share / (teachers[0].total / total));
    const place = rank.get(pathKey(teacher.path));
    return h(
      "tr",
      { "data-path": pathKey(teacher.path) },
      h("td", {}, legend.path(teacher.path)),
      h("td", { class: "number" }, exact(teacher.total, formatCount)),
      h("td", { class: "share" }, h("span", {}, formatPercent(share)), bar),
      h("td", { class: "number" }, exact(teacher.latest, formatCount)),
      h("td", { class: place ? "" : "muted" }, place ? `rank ${place}` : "left"),
    );
  });
}

export function frontRows(search, legend, format) {
  return search.front.map(({ path, accuracy, cost, step }) =>
    h(
      "tr",
      {},
      number(cost, format.cost),
      number(accuracy, format.accuracy),
      h("td", {}, legend.path(path)),
      number(step, formatCount),
    ),
  );
}

const EPOCH_COLUMNS = ["board_best", "board_mean", "board_worst", "match_weight", "train_loss", "val_acc"];

export function epochRows(search, format) {
  const formats = { match_weight: formatWeight, train_loss: formatPlain, val_acc: formatPercent };
  return [...search.epochs].reverse().map(({ epoch, step, size, figures }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, String(epoch)),
      number(step, formatCount),
      EPOCH_COLUMNS.map((key) =>
        number(!size && key.startsWith("board_") ? null : figures[key], formats[key] ?? format.accuracy),
      ),
    ),
  );
}

/** Pairs of a term and what it is, for a <dl>. */
export function statistics(search, format) {
  const { totals, points, latest } = { totals: search.totals, points: search.points, latest: search.latest };
  if (!latest) return [];
  const draws = totals.drawn + totals.rejected;
  const share = (part, whole) => (whole ? ` (${formatPercent(part / whole)})` : "");
  const admitted = points.filter((point) => point.admitted).length;
  const figure = (key, format) => (Number.isFinite(latest.figures[key]) ? format(latest.figures[key]) : "–");
  const pairs = [
    ["Paths drawn and trained", formatCount(totals.drawn)],
    ["Draws outside the cost range or a rule", formatCount(totals.rejected) + share(totals.rejected, draws)],
    ["Paths scored", formatCount(points.length)],
    ["Rejected early", formatCount(totals.rejectedEarly) + share(totals.rejectedEarly, points.length)],
    ["Admitted to the board", formatCount(admitted) + share(admitted, points.length)],
    ["Meta network updates", formatCount(totals.metaUpdates)],
    ["Mean cost on the board", search.board.length ? figure("board_cost_mean", format.cost) : "–"],
    ["Joint loss", figure("joint_loss", formatPlain)],
    ["Training loss", figure("train_loss", formatPlain)],
    ["Validation accuracy of the best path", figure("val_acc", formatPercent)],
  ];
  return pairs.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)));
}

/**
 * Rows of the retrain trials; `running` has the latest intermediate metric of those under way. The mark is at the best so
 * far, or where `chosen` says so of the trials.
 */
export function retrainRows(jobs, running, legendOf, format) {
  const accuracies = jobs.map((job) => job.final?.validation_accuracy).filter(Number.isFinite);
  const best = Math.max(...accuracies);
  return jobs.map((job) => {
    const { final, parameters } = job;
    const now = running.get(job.id);
    const isBest = job.chosen ?? final?.validation_accuracy === best;
    const mark = job.chosen ? "chosen" : "best validation";
    const state = final
      ? describeStatus(job.status)
      : `${describeStatus(job.status)}${now ? `, epoch ${now.epoch}` : ""}`;
    return h(
      "tr",
      { "data-trial": job.number, class: isBest ? "best" : undefined },
      h("th", { scope: "row" }, String(job.number)),
      h("td", {}, legendOf(parameters)),
      number(parameters.one_shot_accuracy, format.accuracy),
      number(parameters.cost, format.cost),
      number(final?.validation_accuracy ?? now?.val_acc, formatPercent, final ? "number" : "number muted"),
      number(final?.test_accuracy, formatPercent),
      h("td", {}, state, isBest ? h("span", { class: "badge" }, mark) : null),
    );
  });
}

const STATUS = {
  UNKNOWN: "unknown",
  SYS_CANCELED: "cancelled",
  USER_CANCELED: "cancelled",
  EARLY_STOPPED: "stopped early",
};

export function describeStatus(status) {
  return STATUS[status] ?? status.toLowerCase().replaceAll("_", " ");
}

/** A path that is given by its choices, label -> option, drawn like the others; a dash for anything else. */
export function givenPath(given, choices) {
  if (typeof given !== "object" || given === null) return "–";
  const legend = new Legend(
    choices ?? Object.fromEntries(Object.entries(given).map(([label, option]) => [label, [option].flat()])),
  );
  return legend.path(placesOf(given, legend.choices));
}
