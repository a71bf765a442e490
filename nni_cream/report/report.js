// The report of a result: the parts of the board page, with data that stand in the file itself.

import { LineChart } from "./board_charts.js";
import { Search } from "./board_model.js";
import { $, SearchView, empty, fill, formatsOf, summarize } from "./board_search.js";
import * as views from "./board_views.js";

const { h } = views;
const data = JSON.parse($("#data").textContent);
const TONES = 8; // of the lines in report.css
const NEEDS_HISTORY = ["#progress", "#cloud", "#weight", "#predicted", "#changes", "#statistics", "#teachers", "#epochs"];

/** Draw a part; if that fails say so, since the others may be right. */
function attempt(part, draw) {
  try {
    draw();
  } catch (error) {
    $("#failed").append(h("p", { class: "notice" }, `The part “${part}” cannot be shown: ${error.message}.`));
  }
}

// The search --------------------------------------------------------------------------------------------------------

function drawSearch({ settings, records, board, complete }) {
  const search = new Search();
  // As NNI's manager gives them to the board page, which wraps JSON in JSON.
  const wrap = (metric) => JSON.stringify(JSON.stringify(metric));
  search.add(records.map((metric, sequence) => ({ sequence, timestamp: sequence, data: wrap(metric) })));
  const view = new SearchView();
  const waiting = "Nothing came before the end of the epochs that are known.";
  view.draw(search, settings, board && { board }, waiting);
  view.drawPredictor(search, waiting);
  $("#board-title").textContent = "The board";
  for (const [problem, count] of search.skipped) {
    const results = count === 1 ? "An epoch" : `${count} epochs`;
    $("#failed").append(h("p", { class: "notice" }, `${results} of the search cannot be shown: ${problem}.`));
  }
  if (complete) return;
  $("#tiles").remove();
  for (const part of NEEDS_HISTORY) $(part)?.closest(".card").remove(); // a note of the report says why
}

// The trainings -----------------------------------------------------------------------------------------------------

function drawCurves(selector, key, { yTitle, tick, write, what, missing }) {
  const shown = data.trainings.map((training, index) => ({ ...training, place: `e${index}` }));
  const known = shown.filter(({ epochs }) => epochs.some((epoch) => Number.isFinite(epoch[key])));
  const kindOf = ({ place }) => `entry e${Number(place.slice(1)) % TONES}`;
  const lines = known.map((training) => ({ key: training.place, kind: kindOf(training) }));
  const rows = new Map();
  for (const { epochs, place } of known) {
    for (const epoch of epochs) {
      const row = rows.get(epoch.epoch) ?? { x: epoch.epoch };
      row[place] = epoch[key];
      rows.set(epoch.epoch, row);
    }
  }
  const first = known.find(({ chosen }) => chosen) ?? known[0];
  const chart = new LineChart($(selector), {
    lines,
    yTitle,
    tick,
    describe: (row) => {
      const values = known.filter(({ place }) => Number.isFinite(row[place]));
      return `Epoch ${row.x}: ${values.map(({ name, place }) => `${name} ${write(row[place])}`).join(", ")}`;
    },
    summarize: (all) => (first ? summarize(all, first.place, `${what} of ${first.name}`, write) : `${what}: none.`),
  });
  const caption = (training) => training.name + (training.chosen && known.length > 1 ? " (chosen)" : "");
  $(`${selector} .key`).replaceChildren(
    ...known.map((training) => h("li", { class: kindOf(training) }, caption(training))),
  );
  empty(`${selector} > .empty`, known.length ? "" : missing);
  chart.update([...rows.values()].sort((a, b) => a.x - b.x));
}

function drawRetrained() {
  const jobs = data.retrained.map((row) => ({
    number: row.name,
    chosen: row.chosen,
    status: "SUCCEEDED",
    parameters: row,
    final: row,
  }));
  const legendOf = ({ choices }) => views.givenPath(choices, data.search?.choices ?? null);
  fill("#retrained", views.retrainRows(jobs, new Map(), legendOf, formatsOf(data.settings)));
  $("#retrained thead th").textContent = "Entry";
  empty("#retrained-empty", jobs.length ? "" : "No retraining is complete yet.");
}

if (data.search) attempt("search", () => drawSearch(data.search));
if ($("#loss")) {
  const loss = { yTitle: "training loss", what: "Training loss", missing: "No epoch of a training has ended yet." };
  const plain = { tick: views.tickPlain, write: views.formatPlain };
  attempt("training loss", () => drawCurves("#loss", "loss", { ...loss, ...plain }));
  const missing = "No epoch was validated: there are no validation images, or no epoch has ended yet.";
  const percent = { tick: views.tickPercent, write: views.formatPercent };
  const accuracy = { ...percent, yTitle: data.validation, what: data.validation, missing };
  attempt("validation", () => drawCurves("#validation", "accuracy", accuracy));
}
if ($("#retrained")) attempt("retrained", drawRetrained);
