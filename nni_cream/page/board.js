// The board page: asks NNI's manager, and shows what it answers. Its parts are in the other files.

import { Search, isObject, readJob, unpack, variedKeys } from "./board_model.js";
import { $, SearchView, empty, fill, formatsOf } from "./board_search.js";
import * as views from "./board_views.js";

const { h } = views;
const view = new SearchView();
const API = "../api/v1/nni"; // relative: the experiment may have a URL prefix
const SECONDS = { visible: 3, hidden: 30, most: 60, patience: 20 };
// The manager reads all metrics of the experiment for each question: the longer it takes, the more seldom it is asked.
const REST = 60;

const isOver = (status) => status?.status === "DONE" || status?.status === "STOPPED";

const state = {
  jobs: [],
  searches: new Map(), // id of a search trial -> Search, for those that were looked at
  running: new Map(), // id of a retrain trial -> its latest metric
  selected: null,
  status: null,
  experiment: null,
  answered: null, // when the manager last did
  drawn: new Map(), // what each part shows now, so that nothing is drawn twice
  failed: new Map(), // what cannot be shown -> why
  pause: SECONDS.visible,
  gone: false,
};

// Asking the manager ------------------------------------------------------------------------------------------------

/** What the manager did not answer, or not as NNI's manager does. */
class Unanswered extends Error {}

async function get(path) {
  const response = await fetch(API + path, { cache: "no-store", signal: AbortSignal.timeout(1000 * SECONDS.patience) });
  if (!response.ok) throw new Unanswered(`HTTP ${response.status}`);
  return response.text();
}

async function ask(path) {
  let text;
  try {
    text = await get(path);
    const answer = JSON.parse(text);
    if (typeof answer !== "object" || answer === null) throw new Unanswered(`${path} is no object`);
    return answer;
  } catch (error) {
    if (error instanceof SyntaxError && text === "INITIALIZING") return { status: text, errors: [] };
    throw new Unanswered(error.message);
  }
}

async function askList(path) {
  const answer = await ask(path);
  if (!Array.isArray(answer)) throw new Unanswered(`${path} is no list`);
  return answer.filter(isObject);
}

/** Ask how it stands, and for what is new. */
async function poll() {
  const status = await ask("/check-status");
  if (status.status !== "INITIALIZING") {
    const started = performance.now();
    state.experiment ??= await ask("/experiment");
    state.jobs = (await askList("/trial-jobs")).map(readJob).sort((a, b) => a.number - b.number);
    select();
    await readSelected(isOver(status));
    if (state.jobs.some((job) => job.status === "RUNNING")) await readLatest(isOver(status));
    state.pause = Math.min(SECONDS.most, Math.max(SECONDS.visible, (REST * (performance.now() - started)) / 1000));
  }
  state.status = status; // last: who reads that all is done finds everything else read
}

/** Which search trial to show: the one in the address, else the first that runs, else the first. */
function select() {
  const searches = state.jobs.filter((job) => job.role === "search");
  const wanted = location.hash.slice(1);
  const chosen =
    searches.find((job) => encodeURIComponent(job.id) === wanted) ?? searches.find((job) => job.id === state.selected);
  state.selected = (chosen ?? searches.find((job) => job.status === "RUNNING") ?? searches[0])?.id ?? null;
}

/** Read all metrics of the selected trial, if that was not done since it came to be what it is, or some were missed. */
async function readSelected(over) {
  const job = state.jobs.find(({ id }) => id === state.selected);
  if (!job) return;
  const search = state.searches.get(job.id) ?? new Search();
  const asOf = `${job.status} ${over}`;
  if (search.asOf === asOf && !search.incomplete) return;
  search.add((await askList(`/metric-data/${encodeURIComponent(job.id)}`)).filter(isIntermediate));
  search.settle();
  search.asOf = asOf;
  state.searches.set(job.id, search);
}

/** Read the latest metric of each trial, which brings the selected one up to date unless some were missed. */
async function readLatest(over) {
  const roles = new Map(state.jobs.map((job) => [job.id, job.role]));
  for (const record of (await askList("/metric-data-latest")).filter(isIntermediate)) {
    if (roles.get(record.trialJobId) === "retrain") state.running.set(record.trialJobId, unpack(record));
    else state.searches.get(record.trialJobId)?.add([record]);
  }
  if (state.searches.get(state.selected)?.incomplete) await readSelected(over);
}

const isIntermediate = (record) => record.type === "PERIODICAL";

// When to ask -------------------------------------------------------------------------------------------------------

let timer = 0;
let asking = false;
let askAgain = false;

/** Ask, show, and see to it that there is a next time. */
async function refresh() {
  if (asking) {
    askAgain = true; // somebody chose another trial meanwhile
    return;
  }
  asking = true;
  askAgain = false;
  clearTimeout(timer);
  try {
    await poll();
    state.gone = false;
    state.answered = new Date();
  } catch (error) {
    state.gone = true;
    state.pause = SECONDS.visible;
    if (!(error instanceof Unanswered)) throw error;
  } finally {
    asking = false;
    if (state.gone || askAgain || !isOver(state.status)) wait();
    draw();
  }
}

function wait() {
  clearTimeout(timer);
  const seconds = document.hidden ? Math.max(SECONDS.hidden, state.pause) : state.pause;
  timer = setTimeout(refresh, askAgain ? 0 : 1000 * seconds);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && (state.gone || !isOver(state.status))) refresh();
});

// Showing it --------------------------------------------------------------------------------------------------------

/** Call a function unless the part shows this already. */
function once(part, shown, redraw) {
  const text = JSON.stringify(shown);
  if (state.drawn.get(part) === text) return;
  state.drawn.set(part, text);
  try {
    redraw();
    state.failed.delete(part);
  } catch (error) {
    state.failed.set(part, error.message); // the other parts may be right; trials report what they like
  }
}

function draw() {
  const job = state.jobs.find(({ id }) => id === state.selected);
  const search = state.searches.get(state.selected) ?? new Search();
  drawState();
  once("experiment", state.experiment?.id, drawExperiment);
  once("selector", [state.selected, state.jobs.map(trialName)], drawSelector);
  once("notices", [state.selected, search.version, state.jobs.map(({ role }) => role)], () => drawNotices(search));
  const settings = job?.config.search ?? {};
  const asShown = [state.selected, search.version, job?.status];
  once("search", asShown, () => view.draw(search, settings, job?.final, waitingFor(job, search, settings)));
  once("predictor", asShown, () => view.drawPredictor(search, waitingFor(job, search, {})));
  once("retrained", [state.jobs, [...state.running], state.status, Boolean(search.choices)], drawRetrained);
  const failed = [...state.failed].map(([part, why]) => `The part “${part}” cannot be shown: ${why}.`);
  $("#failed").replaceChildren(...failed.map((text) => h("p", { class: "notice" }, text)));
}

const STATES = {
  INITIALIZING: ["connecting", "NNI's manager is starting …"],
  RUNNING: ["running", "Running"],
  TUNER_NO_MORE_TRIAL: ["running", "Running"],
  NO_MORE_TRIAL: ["running", "Running, last trials"],
  STOPPING: ["running", "Stopping"],
  DONE: ["done", "Done: all trials have ended"],
  STOPPED: ["done", "Stopped"],
  ERROR: ["bad", "NNI's manager reports an error"],
};

function drawState() {
  const time = state.answered?.toLocaleTimeString() ?? "";
  const status = String(state.status?.status ?? "");
  const errors = [state.status?.errors ?? []].flat();
  const known = Object.hasOwn(STATES, status) ? STATES[status] : ["running", status];
  const [kind, words] = state.gone ? ["bad", "Manager gone"] : known;
  const details = !state.gone && errors.length ? `: ${errors.join("; ")}` : "";
  once("status", [kind, words, details], () => {
    $("#status").className = kind;
    $("#status").textContent = words + details;
  });
  $("#updated").textContent = time && !state.gone ? `as of ${time}` : "";
  const asOf = time ? `What is shown here is as of ${time}. ` : "";
  once("gone", [state.gone, asOf], () => {
    $("#gone").hidden = !state.gone;
    $("#gone").textContent = state.gone
      ? `NNI's manager does not answer. ${asOf}This page goes on asking, until the manager is back.`
      : "";
  });
}

function drawExperiment() {
  if (!state.experiment) return;
  const title = [state.experiment.params?.experimentName, state.experiment.id].filter(Boolean).join(" · ");
  $("#experiment").textContent = title;
  document.title = `${title} · board`;
}

function trialName(job) {
  const varied = variedKeys(job).map(([key, value]) => `${key} ${describeValue(key, value)}`);
  return [`Trial ${job.number}`, ...varied, views.describeStatus(job.status)].join(" · ");
}

function describeValue(key, value) {
  const several = value !== null && (!Array.isArray(value) || value.some((end) => typeof end === "object" && end !== null));
  if (key !== "cost_range" || several) return views.optionText(value);
  const [low, high] = Array.isArray(value)
    ? value.map((end) => (end === null ? null : views.formatCost(end)))
    : [null, null];
  if (low && high) return `${low} – ${high}`;
  return low ? `≥ ${low}` : high ? `≤ ${high}` : "any";
}

function drawSelector() {
  const select = $("#trial");
  const searches = state.jobs.filter((job) => job.role === "search");
  select.disabled = !searches.length;
  select.replaceChildren(...searches.map((job) => h("option", { value: job.id }, trialName(job))));
  if (!searches.length) select.append(h("option", {}, "none yet"));
  else select.value = state.selected;
}

function drawNotices(search) {
  const notices = [...search.skipped].map(
    ([problem, count]) => `${count === 1 ? "A result" : `${count} results`} of this trial cannot be shown: ${problem}.`,
  );
  const strange = state.jobs.filter(
    (job) => job.role !== "search" && job.role !== "retrain" && job.status !== "WAITING",
  );
  if (strange.length) {
    const numbers = strange.map((job) => job.number).join(", ");
    notices.push(`Not shown, since neither a search nor a retrain trial of nni_cream: trial ${numbers}.`);
  }
  if (search.epochs.length && !search.choices) notices.push("This trial did not say what its choices are called.");
  $("#notices").replaceChildren(...notices.map((text) => h("p", { class: "notice" }, text)));
}

/** Say why there is nothing to see yet. */
function waitingFor(job, search, settings) {
  if (!job) return "Waiting for the first search trial.";
  if (!search.latest) {
    if (job.status === "WAITING") return "Waiting for this trial to start.";
    return job.status === "RUNNING" ? "Waiting for the first epoch of this trial." : "This trial reported nothing.";
  }
  if (job.status !== "RUNNING") return "Nothing came before this trial ended.";
  if (!search.board.length) return `Warming up (${part(settings.warmup)}): waiting for the first entry of the board.`;
  const start = settings.teaching?.start;
  return start ? `Waiting for the first teacher: distillation starts after ${part(start)}.` : "Waiting for the first teacher.";
}

/** Say how long a part of a training is: epochs, or a share of it. */
function part(length) {
  const amount = Number.isInteger(length) ? `${length} epochs` : views.formatPercent(length ?? 0);
  return `${amount} of the training`;
}

// The retrain trials ------------------------------------------------------------------------------------------------

function drawRetrained() {
  const jobs = state.jobs.filter((job) => job.role === "retrain");
  const choices = [...state.searches.values()].find((search) => search.choices)?.choices ?? null;
  const format = formatsOf(state.jobs.find((job) => "score" in job.config.search)?.config.search ?? {});
  fill(
    "#retrained",
    views.retrainRows(jobs, state.running, (parameters) => views.givenPath(parameters.choices, choices), format),
  );
  const planned = state.jobs.find((job) => "top" in job.config.retrain)?.config.retrain.top;
  const over = isOver(state.status);
  let waiting = "Waiting for the search trials to end: their best entries are then trained from new weights.";
  if (planned === 0) waiting = "This experiment retrains nothing (retrain.top: 0).";
  else if (over) waiting = "No entry was retrained.";
  empty("#retrained-empty", jobs.length ? "" : waiting);
}

// Begin -------------------------------------------------------------------------------------------------------------

$("#trial").addEventListener("change", (event) => {
  history.replaceState(null, "", `#${encodeURIComponent(event.target.value)}`);
  state.selected = event.target.value;
  draw(); // what is known of it, at once
  refresh();
});
window.addEventListener("hashchange", refresh);
$("#refresh").addEventListener("click", refresh);
draw();
refresh();
