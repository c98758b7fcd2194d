"use strict";
// The tables of the run, what of them is asked for, and in which order. Nothing here touches the page.

/** @typedef {ReportElements} PageElements */

/** @type {ReportData} */
const NO_DATA = {
  words: [],
  images: { name: [], url: [], original: [], predicted: [], confidence: [], label: [], correct: [] },
  rows: {
    image: [], class_name: [], layer: [], method: [], status: [], rank: [], class_index: [], logit: [], probability: [], peak: [],
    box_x: [], box_y: [], box_w: [], box_h: [], overlay: [], entropy: [], border: [],
  },
  metrics: {},
  failures: { image: [], stage: [], error: [] },
  maps: null,
  originals: [],
  settings: { fit: null, style: null, legend: false, caption: false, "max-side": null },
  preprocess: null,
};
const data = window.camcliData || NO_DATA;
const { images, rows, failures } = data;
const rowCount = rows.image.length;
const FAILED = "failed";

// An item is a row of the table (its number) or, from rowCount on, a failure. They come in the order of the images.
/** @type {(item: number) => boolean} */
const isFailure = (item) => item >= rowCount;
/** @type {(item: number) => number} */
const imageOf = (item) => (isFailure(item) ? failures.image[item - rowCount] : rows.image[item]);
/** @type {(number: WordNumber | null | undefined) => string} */
const word = (number) => (number === null || number === undefined ? "" : data.words[number]);
/** @type {(item: number) => string} */
const statusOf = (item) => (isFailure(item) ? FAILED : word(rows.status[item]));
/** @type {(image: number) => string} */
const imageUrl = (image) => images.url[image] || images.name[image];

/** @param {number} item */
function overlayUrl(item) {
  const end = rows.overlay[item];
  return !end ? "" : end.startsWith("/") ? end.slice(1) : "overlays/" + imageUrl(rows.image[item]) + end;
}

/** @param {number} item */
function thumbUrl(item) {
  return overlayUrl(item).replace(/^overlays\//, "report/thumbs/").replace(/\.[a-z]+$/, ".jpg");
}

/** What is asked for. layer and method: the number of the word as a text; "" for all of them. */
const START = {
  search: "", group: "", predicted: "", explained: "", label: "", right: "", layer: "", method: "", stage: "",
  metric: "", least: "", most: "",
  low: 0, high: 1, hidden: /** @type {string[]} */ ([]), single: true, sort: "input", descending: false,
};
// Besides: the image that is open, which of its maps, and how the page is set.
const state = { ...START, open: "", map: 0, opacity: 100, panel: /** @type {"open" | "closed" | null} */ (null) };
/** @typedef {(changes: Partial<typeof state>, kind?: string) => void} Change */

function inOrder() {
  /** @type {number[]} */
  const items = [];
  let failure = 0;
  for (let row = 0; row < rowCount; row++) {
    while (failure < failures.image.length && failures.image[failure] < rows.image[row]) items.push(rowCount + failure++);
    items.push(row);
  }
  while (failure < failures.image.length) items.push(rowCount + failure++);
  return items;
}

const everything = inOrder();
const folded = images.name.map((name) => name.toLowerCase());
const foldedWords = data.words.map((text) => text.toLowerCase());
/** @type {Map<number, number[]>} */
const rowsOfImage = new Map();
for (let row = 0; row < rowCount; row++) {
  const own = rowsOfImage.get(rows.image[row]);
  if (own) own.push(row);
  else rowsOfImage.set(rows.image[row], [row]);
}

// Best minus second-best probability among an image's explained classes; with one class, its probability.
const margins = images.name.map((_, image) => marginOf(rowsOfImage.get(image) || []));

/** @param {number[]} own */
function marginOf(own) {
  /** @type {Map<Cell, number>} */
  const best = new Map();
  for (const row of own) {
    const probability = rows.probability[row];
    if (probability !== null) best.set(rows.class_index[row], probability);
  }
  const found = [...best.values()].sort((a, b) => b - a);
  return found.length === 0 ? null : found.length === 1 ? found[0] : found[0] - found[1];
}

/**
 * The classes that a text stands for: those of exactly that name, or else all that contain it; null for any.
 * @param {string} text
 */
function wantedWords(text) {
  const sought = text.trim().toLowerCase();
  if (!sought) return null;
  const exact = foldedWords.map((name) => name === sought);
  return exact.some(Boolean) ? exact : foldedWords.map((name) => name.includes(sought));
}

/**
 * A group of images from the page of camcli cluster: how many images the report has, a bit for each, and the group's name. null for
 * a text that means nothing, or another report.
 * @param {string} text
 */
function groupOf(text) {
  const parts = /^(\d{1,9})\.([\w-]*)\.(.{1,300})$/.exec(text);
  if (!parts || Number(parts[1]) !== images.name.length) return null;
  const bits = atob(parts[2].replace(/-/g, "+").replace(/_/g, "/").padEnd(Math.ceil(parts[2].length / 4) * 4, "A"));
  return { name: parts[3], has: (/** @type {number} */ image) => Boolean(bits.charCodeAt(image >> 3) & (1 << (image & 7))) };
}

/** @returns {(image: number) => boolean} */
function imageTest() {
  const group = groupOf(state.group);
  const sought = state.search.trim().toLowerCase();
  const predicted = wantedWords(state.predicted);
  const label = wantedWords(state.label);
  const right = state.right === "" ? null : Number(state.right);
  const whole = state.low <= 0 && state.high >= 1;
  /** @type {(wanted: boolean[], number: WordNumber | null) => boolean} */
  const isAmong = (wanted, number) => number !== null && wanted[number];
  return (image) => {
    if (group && !group.has(image)) return false;
    if (sought && !folded[image].includes(sought)) return false;
    if (predicted && !isAmong(predicted, images.predicted[image])) return false;
    if (label && !isAmong(label, images.label[image])) return false;
    if (right !== null && images.correct[image] !== right) return false;
    const confidence = images.confidence[image];
    return whole || (confidence !== null && confidence >= state.low && confidence <= state.high);
  };
}

/**
 * Whether the chosen metric of a map lies between its limits; null where nothing is asked for.
 * @returns {((item: number) => boolean) | null}
 */
function measuredTest() {
  const column = data.metrics[state.metric];
  if (!column || (state.least === "" && state.most === "")) return null;
  const least = state.least === "" ? -Infinity : Number(state.least);
  const most = state.most === "" ? Infinity : Number(state.most);
  return (item) => {
    const value = isFailure(item) ? null : column[item];
    return value !== null && value >= least && value <= most;
  };
}

/** @returns {(item: number) => boolean} */
function itemTest() {
  const explained = wantedWords(state.explained);
  const rowsOnly = explained || state.layer !== "" || state.method !== "";
  const measured = measuredTest();
  return (item) => {
    if (state.hidden.includes(statusOf(item))) return false;
    if (measured && !measured(item)) return false;
    if (isFailure(item)) return !rowsOnly && (!state.stage || failures.stage[item - rowCount] === state.stage);
    if (state.stage || (explained && !explained[rows.class_name[item]])) return false;
    if (state.layer !== "" && rows.layer[item] !== Number(state.layer)) return false;
    return state.method === "" || rows.method[item] === Number(state.method);
  };
}

/** @type {Record<string, (item: number) => number | string | null>} */
const KEYS = {
  wrong: (item) => (images.correct[imageOf(item)] === 0 ? images.confidence[imageOf(item)] : null),
  path: (item) => images.name[imageOf(item)],
  probability: (item) => rows.probability[item],
  margin: (item) => margins[rows.image[item]],
  peak: (item) => rows.peak[item],
  entropy: (item) => rows.entropy[item],
  border: (item) => rows.border[item],
};
const METRIC = "metric-";
for (const [name, column] of Object.entries(data.metrics)) KEYS[METRIC + name] = (item) => column[item];

/** @param {number[]} items */
function sorted(items) {
  if (state.sort === "input") return state.descending ? items.reverse() : items;
  const keyOf = KEYS[state.sort];
  return sortedBy(items, (item) => (state.sort !== "path" && isFailure(item) ? null : keyOf(item)), state.descending);
}

// The items to show, in order, and the images among them.
function select() {
  const isImage = imageTest();
  const isItem = itemTest();
  const found = [];
  const passing = new Set();
  let last = -1;
  let isLast = false;
  for (const item of everything) {
    const image = imageOf(item);
    if (image !== last) isLast = isImage((last = image));
    if (!isLast || !isItem(item)) continue;
    if (!state.single || !passing.has(image)) found.push(item);
    passing.add(image);
  }
  return { items: sorted(found), images: passing };
}

/** @type {(text: string) => string | undefined} */
const numberText = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? text : undefined);

// The order in which a sort is most useful: what is most surely wrong first.
/** @type {(sort: string) => boolean} */
const startsDescending = (sort) => sort === "wrong";

/**
 * What stands in the page's address, and what may.
 * @returns {Record<string, AddressField>}
 */
function addressFields() {
  /** @type {(key: "search" | "predicted" | "explained" | "label") => AddressField} */
  const text = (key) => part(state, key, { start: START[key] });
  /** @type {(key: "layer" | "method", among: WordNumber[]) => AddressField} */
  const numbered = (key, among) => part(state, key, {
    start: "",
    parse: (name) => [...new Set(among)].filter((number) => word(number) === name).map(String)[0],
    format: (number) => word(Number(number)),
  });
  /** @type {Record<string, string>} */
  const rights = { right: "1", wrong: "0" };
  const sorts = [...byId("sort").options].filter((choice) => !choice.disabled && !choice.hidden).map((choice) => choice.value);
  const statuses = ["ok", "empty", "nonfinite", FAILED];
  return {
    search: text("search"),
    predicted: text("predicted"),
    explained: text("explained"),
    true: text("label"),
    group: part(state, "group", { start: "", parse: (group) => (groupOf(group) ? group : undefined) }),
    prediction: part(state, "right", {
      start: "",
      parse: (name) => (Object.hasOwn(rights, name) && totals.label.size ? rights[name] : undefined),
      format: (value) => (value === "1" ? "right" : "wrong"),
    }),
    layer: numbered("layer", rows.layer),
    method: numbered("method", rows.method),
    stage: part(state, "stage", { start: "", parse: oneOf(failures.stage) }),
    metric: part(state, "metric", { start: "", parse: oneOf(Object.keys(data.metrics)) }),
    least: part(state, "least", { start: "", parse: numberText }),
    most: part(state, "most", { start: "", parse: numberText }),
    low: part(state, "low", { start: 0, parse: numberIn(0, 1) }),
    high: part(state, "high", { start: 1, parse: numberIn(0, 1) }),
    hide: {
      read: (list) => (state.hidden = list === null ? [] : statuses.filter((status) => list.split(",").includes(status))),
      write: () => (state.hidden.length ? statuses.filter((status) => state.hidden.includes(status)).join(",") : null),
    },
    cards: part(state, "single", { start: true, parse: (word) => (word === "all" ? false : undefined), format: () => "all" }),
    sort: part(state, "sort", { start: "input", parse: oneOf(sorts) }),
    order: {
      read: (order) => (state.descending = order === "desc" || (order !== "asc" && startsDescending(state.sort))),
      write: () => (state.descending === startsDescending(state.sort) ? null : state.descending ? "desc" : "asc"),
    },
    open: part(state, "open", { start: "" }),
    map: {
      read: (count) => (state.map = count !== null && /^[1-9]\d{0,5}$/.test(count) ? Number(count) - 1 : 0),
      write: () => (state.open === "" || state.map === 0 ? null : String(state.map + 1)),
    },
    overlay: part(state, "opacity", { start: 100, parse: numberIn(0, 100) }),
    panel: part(state, "panel", { start: null, parse: oneOf(/** @type {const} */ (["open", "closed"])) }),
  };
}
