// What the trials reported, as the page needs it. No DOM in here.

export const UPDATE_FORMAT = "nni_cream.update/1";
const CHANGES_KEPT = 200;
const PREDICTIONS_KEPT = 500; // of the latest epochs: old weights gave other scores
const MOST_EPOCHS = 1_000_000; // a trial names the number of its record, and gaps are walked through

export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const objectOf = (value) => (isObject(value) ? value : {});

/** Unpack a metric record of NNI's manager, whose value is JSON wrapped in JSON; null if it is not an object. */
export function unpack(record) {
  try {
    const value = JSON.parse(JSON.parse(record.data));
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

/**
 * A trial job, with what the tuner gave it and its final result. The latter says what it was really given: NNI's record
 * may be that of another job that started at the same time.
 */
export function readJob(job) {
  const final = job.finalMetricData?.length ? unpack(job.finalMetricData[0]) : null;
  let parameters = {};
  try {
    parameters = objectOf(final?.parameters ? JSON.parse(final.parameters) : JSON.parse(job.hyperParameters[0]).parameters);
  } catch {
    // A trial that was added by hand, or still waits for its parameters: of no role that this page knows.
  }
  return {
    id: String(job.trialJobId),
    number: Number(job.sequenceId ?? 0),
    status: String(job.status),
    role: typeof parameters.role === "string" ? parameters.role : null,
    parameters,
    config: { search: objectOf(parameters.config?.search), retrain: objectOf(parameters.config?.retrain) },
    final,
  };
}

/** The keys that the experiment varies, with this trial's values. */
export function variedKeys(job) {
  return Object.entries(job.parameters).filter(([key]) => key !== "role" && key !== "config");
}

/** The entries of the board that a search trial reported at its end; none before that. */
export function finalEntries(final) {
  try {
    const { entries } = typeof final?.board === "string" ? JSON.parse(final.board) : (final?.board ?? {});
    return Array.isArray(entries) ? entries.filter((entry) => typeof entry?.path === "object" && entry.path !== null) : [];
  } catch {
    return [];
  }
}

/** A path that is given by its options, label -> option, as the places of these: the form that it has in updates. */
export function placesOf(given, choices) {
  const placeOf = (options, option) => options.findIndex((known) => JSON.stringify(known) === JSON.stringify(option));
  return Object.entries(choices).map(([label, options]) => {
    const place = placeOf(options, given[label]);
    return Array.isArray(given[label]) && place < 0 ? given[label].map((option) => placeOf(options, option)) : place;
  });
}

/** Canonical text of a path, which is a list of indices. */
export function pathKey(path) {
  return JSON.stringify(path);
}

const isPath = (path) =>
  Array.isArray(path) &&
  path.every((item) => Number.isInteger(item) || (Array.isArray(item) && item.every(Number.isInteger)));
const isNumber = Number.isFinite;

/** Why an intermediate metric cannot be drawn; null if it can. */
function problemOf(metric) {
  if (metric === null) return "no JSON object";
  const update = metric.update;
  if (update === undefined) return "no board update; written by another version of nni_cream";
  const format = update?.format;
  if (format !== UPDATE_FORMAT) return `format ${JSON.stringify(format ?? null)}, this page reads "${UPDATE_FORMAT}"`;
  const rows = (list, check) =>
    Array.isArray(list) && list.every((row) => Array.isArray(row) && isPath(row[0]) && check(row));
  const right =
    isNumber(update.step) &&
    rows(update.board, ([, accuracy, cost, step]) => isNumber(accuracy) && isNumber(cost) && isNumber(step)) &&
    rows(update.scored, ([, accuracy, cost]) => (accuracy === null || isNumber(accuracy)) && isNumber(cost)) &&
    rows(update.teachers, ([, count]) => isNumber(count));
  const listOf = (list, check) => Array.isArray(list) && list.every(check);
  const tableOf = (list) => listOf(list, (row) => listOf(row, (value) => value === null || isNumber(value)));
  const predictor = update.predictor ?? null; // a search of before has none
  const known = (found) =>
    tableOf(found?.gains) &&
    tableOf(found.stds) &&
    listOf(found.predicted, isNumber) &&
    found.predicted.length === update.scored.length;
  const predicted = predictor === null || typeof predictor.problem === "string" || known(predictor);
  const named = isObject(update.choices ?? {}) && Object.values(update.choices ?? {}).every(Array.isArray);
  return right && predicted && named ? null : "an update with values that this page does not understand";
}

/** One search trial: everything that it reported, folded together in the order of its epochs. */
export class Search {
  constructor() {
    this.records = new Map();
    this.version = 0; // counts what was added, so that nothing is drawn twice
    this.reset();
  }

  reset() {
    this.next = 0; // sequence of the first record that is not folded in yet
    this.choices = this.choices ?? null;
    this.epochs = []; // {epoch, step, figures}
    this.board = []; // {path, accuracy, cost, step}
    this.step = 0;
    this.points = []; // every scored path: {path, accuracy or null, cost, step, admitted}
    this.scoredFront = []; // of them, those that no other beats in both accuracy and cost, cheapest first
    this.front = []; // the same with the entries of the board, whose accuracies are fresher
    this.changes = []; // newest last: {epoch, step, entered, left}
    this.taught = new Map(); // path -> {path, total, latest}
    this.totals = { drawn: 0, rejected: 0, metaUpdates: 0, rejectedEarly: 0 };
    this.predictor = null; // what it knew in the latest epoch: {problem, gains, stds, predicted}
    this.predictions = []; // the latest scored candidates that it predicted: {path, epoch, score, predicted}
    this.skipped = new Map(); // problem -> number of records
    this.known = new Map(); // path -> latest accuracy and cost that it had on the board
  }

  /** Take records in; return whether anything is new. */
  add(records) {
    let changed = false;
    let again = false;
    for (const record of records) {
      const sequence = Number(record.sequence);
      if (!Number.isInteger(sequence) || sequence < 0 || sequence >= MOST_EPOCHS) continue;
      const before = this.records.get(sequence);
      // A resumed trial sends an epoch again: the later one counts.
      if (before && (before.timestamp > record.timestamp || before.data === record.data)) continue;
      this.records.set(sequence, record);
      changed = true;
      again ||= sequence < this.next;
    }
    if (again) this.reset();
    if (changed) {
      this.foldIn();
      this.version += 1;
    }
    return changed;
  }

  /** Whether there are records beyond a gap, so that all have to be read again. */
  get incomplete() {
    return [...this.records.keys()].some((sequence) => sequence >= this.next);
  }

  /** Fold everything in, gaps or not: there is nothing more to be had. */
  settle() {
    if (!this.incomplete) return;
    this.version += 1;
    this.foldIn(Math.max(...this.records.keys()));
  }

  /** Fold in what follows without a gap, and beyond gaps what comes up to a given sequence. */
  foldIn(last = -1) {
    const before = this.points.length;
    for (; this.next <= last || this.records.has(this.next); this.next += 1) {
      if (this.records.has(this.next)) this.fold(this.records.get(this.next));
    }
    this.scoredFront = paretoFront([...this.scoredFront, ...this.points.slice(before)]);
    this.front = paretoFront([...this.board, ...this.scoredFront]);
  }

  fold(record) {
    const metric = unpack(record);
    const problem = problemOf(metric);
    if (problem !== null) {
      this.skipped.set(problem, (this.skipped.get(problem) ?? 0) + 1);
      return;
    }
    const { update } = metric;
    this.choices ??= update.choices ?? null;
    this.step = update.step;
    const figures = Object.fromEntries(Object.entries(metric).filter(([, value]) => isNumber(value)));
    const epoch = figures.epoch ?? Number(record.sequence) + 1;
    this.epochs.push({ epoch, step: update.step, size: update.board.length, figures });
    this.foldScored(update, epoch);
    this.foldPredictor(update, epoch);
    this.board = update.board.map(([path, accuracy, cost, step]) => ({ path, accuracy, cost, step }));
    for (const entry of this.board) this.known.set(pathKey(entry.path), entry);
    this.foldTeachers(update.teachers);
    this.totals.drawn += figures.sampler_drawn ?? 0;
    this.totals.rejected += figures.sampler_rejected ?? 0;
    this.totals.metaUpdates += figures.meta_updates ?? 0;
  }

  /** Take in the final validation, which decides the order of the board from then on. */
  validate(entries) {
    const final = new Map(
      entries.map(({ path, validated }, rank) => [pathKey(placesOf(path, this.choices ?? {})), { validated, rank }]),
    );
    const of = (entry) => final.get(pathKey(entry.path)) ?? {};
    for (const entry of this.board) entry.validated = of(entry).validated;
    if (this.validated) this.board.sort((a, b) => of(a).rank - of(b).rank);
  }

  get validated() {
    return this.board.length > 0 && this.board.every((entry) => isNumber(entry.validated));
  }

  foldScored(update, epoch) {
    const change = { epoch, step: update.step, entered: [], left: [] };
    for (const [path, accuracy, cost, step, admitted, evicted] of update.scored) {
      const point = { path, accuracy, cost, step, admitted: Boolean(admitted) };
      this.points.push(point);
      if (accuracy === null) this.totals.rejectedEarly += 1;
      if (!admitted) continue;
      change.entered.push(point);
      this.known.set(pathKey(path), point);
      if (isPath(evicted)) change.left.push(this.known.get(pathKey(evicted)) ?? { path: evicted });
    }
    if (change.entered.length) this.changes.push(change);
    if (this.changes.length > CHANGES_KEPT) this.changes.shift();
  }

  foldPredictor({ predictor, scored }, epoch) {
    this.predictor = predictor ?? null;
    scored.forEach(([path, score], index) => {
      const predicted = predictor?.predicted?.[index];
      if (score !== null && isNumber(predicted)) this.predictions.push({ path, epoch, score, predicted });
    });
    this.predictions = this.predictions.slice(-PREDICTIONS_KEPT);
  }

  /** Why the value of each choice is not known; null if it is. */
  get unpredicted() {
    if (!this.predictor) return "This trial does not say what its choices are worth; an older nni_cream wrote it.";
    if (typeof this.predictor.problem === "string") return `Nothing is known yet: ${this.predictor.problem}.`;
    const options = Object.values(this.choices ?? {});
    const fits = (table) =>
      table.length === options.length && table.every((row, at) => row.length === options[at].length);
    const { gains, stds } = this.predictor;
    return fits(gains) && fits(stds) ? null : "The gains do not fit the choices of this trial.";
  }

  foldTeachers(teachers) {
    for (const teacher of this.taught.values()) teacher.latest = 0;
    for (const [path, count] of teachers) {
      const key = pathKey(path);
      const teacher = this.taught.get(key) ?? { path, total: 0, latest: 0 };
      teacher.total += count;
      teacher.latest = count;
      this.taught.set(key, teacher);
    }
  }

  /** The entries that taught, the most frequent first. */
  get teachers() {
    return [...this.taught.values()].sort((a, b) => b.total - a.total);
  }

  get latest() {
    return this.epochs[this.epochs.length - 1] ?? null;
  }
}

/** Points that no other one beats in both accuracy and cost, cheapest first. */
export function paretoFront(points) {
  const front = [];
  const ranked = points.filter((point) => point.accuracy !== null);
  ranked.sort((a, b) => a.cost - b.cost || b.accuracy - a.accuracy);
  for (const point of ranked) {
    if (!front.length || point.accuracy > front[front.length - 1].accuracy) front.push(point);
  }
  return front;
}

/**
 * Kendall's tau-b of predictions and scores, over the pairs within an epoch alone: scores rise from epoch to epoch, and
 * predictions leave that out. Null where nothing can be compared.
 */
export function kendall(rows) {
  const counts = { pairs: 0, agreeing: 0, tiedPredictions: 0, tiedScores: 0 };
  rows.forEach((a, index) => {
    for (let other = index + 1; other < rows.length && rows[other].epoch === a.epoch; other += 1) {
      const [x, y] = [Math.sign(a.predicted - rows[other].predicted), Math.sign(a.score - rows[other].score)];
      counts.pairs += 1;
      counts.agreeing += x * y;
      counts.tiedPredictions += x === 0;
      counts.tiedScores += y === 0;
    }
  });
  const differing = (counts.pairs - counts.tiedPredictions) * (counts.pairs - counts.tiedScores);
  return differing ? counts.agreeing / Math.sqrt(differing) : null;
}
