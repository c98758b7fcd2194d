"use strict";
// Two runs over the same images: the page of camcli diff.

/** @typedef {DiffElements} PageElements */

const changes = camcliChanges;
const total = changes.names.length;
const every = changes.names.map((_, item) => item); // the largest change first, as camcli diff puts them
const folded = changes.names.map((name) => name.toLowerCase());
/** @type {(number: WordNumber) => string} */
const word = (number) => changes.words[number];
/** @type {(item: number) => boolean} */
const isFlip = (item) => changes.predicted[0][item] !== changes.predicted[1][item];
/** @type {(item: number) => string | null} */
const pairOf = (item) => (isFlip(item) ? changes.predicted[0][item] + " " + changes.predicted[1][item] : null);
/** @type {(pair: string) => string} */
const pairName = (pair) => pair.split(" ").map((number) => word(Number(number))).join(" → ");
const hasMaps = changes.correlation !== null;

// pair: the numbers of two words, "from to"; low: the bin of correlations.
const START = { search: "", sort: "change", descending: false, flips: false, pair: "", low: /** @type {number | null} */ (null) };
const state = { ...START, open: "", fade: 0, panel: /** @type {"open" | "closed" | null} */ (null) };
const MOST_PAIRS = 12;
const BINS = 10;

// Correlations run from -1 to 1; whatever is below 0 is as little alike as can be, and stands in the first bin.
/** @type {(item: number) => number | null} */
const binOf = (item) => {
  const value = changes.correlations[item];
  return value === null ? null : Math.min(BINS - 1, Math.max(0, Math.floor(value * BINS + 1e-9)));
};

/** @type {Record<string, (item: number) => number | string | null>} */
const KEYS = {
  correlation: (item) => changes.correlations[item],
  overlap: (item) => changes.overlaps[item],
  probability: (item) => shift(item),
  path: (item) => changes.names[item],
};

/** @param {number} item */
function shift(item) {
  const [one, other] = changes.probabilities.map((side) => side[item]);
  return one === null || other === null ? null : other - one;
}

/** @param {number[]} items */
function sorted(items) {
  if (state.sort === "change") return state.descending ? items.reverse() : items;
  return sortedBy(items, KEYS[state.sort], state.descending);
}

function select() {
  const sought = state.search.trim().toLowerCase();
  return every.filter(
    (item) =>
      (!sought || folded[item].includes(sought)) &&
      (!state.flips || isFlip(item)) &&
      (!state.pair || pairOf(item) === state.pair) &&
      (state.low === null || binOf(item) === state.low),
  );
}

/**
 * @param {Partial<typeof state>} changed
 * @param {string} [kind] see writeAddress
 */
function change(changed, kind) {
  Object.assign(state, changed);
  update();
  writeAddress(kind || Object.keys(changed).join() + Object.values(changed).join());
}

/**
 * What stands in the page's address, and what may.
 * @returns {Record<string, AddressField>}
 */
function addressFields() {
  const sorts = [...byId("sort").options].filter((choice) => !choice.disabled).map((choice) => choice.value);
  const known = new Set(allPairs.map(([pair]) => pair));
  const bins = Array.from({ length: hasMaps ? BINS : 0 }, (_, bin) => String(bin));
  return {
    search: part(state, "search", { start: "" }),
    flips: flag(state, "flips"),
    pair: part(state, "pair", { start: "", parse: pairNamed(known), format: (pair) => pair.split(" ").map((number) => encodeURIComponent(word(Number(number)))).join(" ") }),
    bin: part(state, "low", { start: null, parse: (bin) => (bins.includes(bin) ? Number(bin) : undefined) }),
    sort: part(state, "sort", { start: "change", parse: oneOf(sorts) }),
    order: part(state, "descending", { start: false, parse: (order) => (order === "desc" ? true : undefined), format: () => "desc" }),
    open: part(state, "open", { start: "" }),
    fade: part(state, "fade", { start: 0, parse: numberIn(0, 100) }),
    panel: part(state, "panel", { start: null, parse: oneOf(/** @type {const} */ (["open", "closed"])) }),
  };
}

/**
 * The pair of classes whose names a text holds; the numbers of words are other ones when the page is written again.
 * @param {Set<string>} known
 * @returns {(text: string) => string | undefined}
 */
function pairNamed(known) {
  const named = new Map([...known].map((pair) => [pair.split(" ").map((number) => encodeURIComponent(word(Number(number)))).join(" "), pair]));
  return (text) => named.get(text);
}

function update() {
  for (const id of /** @type {const} */ (["search", "sort"])) if (byId(id).value !== state[id]) byId(id).value = state[id];
  byId("flips").checked = state.flips;
  byId("direction").textContent = state.descending ? "Descending" : "Ascending";
  byId("direction").setAttribute("aria-pressed", String(state.descending));
  const found = select();
  drawPairs(found);
  drawCorrelations(found);
  byId("count").textContent = `${found.length.toLocaleString("en")} of ${counted(total, "image")}`;
  byId("nothing").hidden = found.length > 0;
  showItems(sorted(found));
}

const allPairs = [...tally(pairOf, every)].sort((a, b) => b[1] - a[1] || (pairName(a[0]) < pairName(b[0]) ? -1 : 1));
const allBins = tally(binOf, every);

/** @param {number[]} found */
function drawPairs(found) {
  const now = tally(pairOf, found);
  /** @type {HTMLElement[]} */
  const buttons = allPairs.slice(0, MOST_PAIRS).map(([pair, count]) => {
    const pressed = state.pair === pair;
    const shown = now.get(pair) || 0;
    const button = element("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(pressed));
    button.append(element("span", "", pairName(pair)), element("span", "", shown === count ? String(count) : `${shown} of ${count}`));
    button.addEventListener("click", () => change({ pair: pressed ? "" : pair }));
    return button;
  });
  const rest = allPairs.length - buttons.length;
  if (!allPairs.length) buttons.push(element("p", "quiet", "No image."));
  replaceChart("pairs", [...buttons, ...(rest > 0 ? [element("p", "quiet", `and ${rest.toLocaleString("en")} more`)] : [])]);
}

/** @param {number[]} found */
function drawCorrelations(found) {
  if (!hasMaps) return;
  const ends = Array.from({ length: BINS }, (_, bin) => (bin ? bin / BINS : -1));
  const svg = histogram({ all: allBins, now: tally(binOf, found), bins: BINS, label: "Images by correlation of their maps" }, (bin) => ({
    name: `${ends[bin]} to ${(bin + 1) / BINS}`,
    pressed: state.low === bin,
    act: () => change({ low: state.low === bin ? null : bin }),
  }));
  for (const [tick, text] of /** @type {const} */ ([[0, "≤ 0"], [0.5, "0.5"], [1, "1"]])) svg.append(shape("text", { x: 280 * tick, y: 107, class: "tick" }, text));
  replaceChart("histogram", [svg]);
}

/** @type {(value: Cell) => string} */
const number = (value) => (value === null ? "" : value.toFixed(3));

/**
 * @param {HTMLElement} card
 * @param {number} item
 */
function drawCard(card, item) {
  const flip = pairOf(item);
  const pair = element("span", "pair");
  pair.append(half(item, 0), half(item, 1));
  const heading = element("span", "class");
  if (flip) card.classList.add("wrong");
  heading.append(element("b", "", flip ? pairName(flip) : word(changes.predicted[0][item])));
  const parts = [changes.probabilities.map((side) => percent(side[item])).join(" → ")];
  if (changes.correlations[item] !== null) parts.push("correlation " + number(changes.correlations[item]));
  if (changes.overlaps[item] !== null) parts.push("overlap " + number(changes.overlaps[item]));
  card.append(pair, heading, element("span", "under", parts.join(" · ")), pathLine(changes.names[item]));
}

/** @type {(item: number, side: number) => string} */
const overlayUrl = (item, side) => changes.overlays[side][item] && changes.urls[side] + changes.overlays[side][item];

/**
 * @param {number} item
 * @param {number} side
 */
function half(item, side) {
  const box = element("span", "thumb");
  const small = changes.thumbs[side][item];
  const url = small ? changes.urls[side] + small : overlayUrl(item, side);
  box.append(url ? pictureOf(url, "its overlay is not there") : element("p", "", "not painted"));
  return box;
}

const view = { place: 0, turn: 0 };

// Open or close the view as the address says; an image that is not among the cards is not opened.
function followOpened() {
  const place = state.open === "" ? -1 : grid.items.findIndex((item) => changes.names[item] === state.open);
  byId("fade").value = String(state.fade);
  if (place >= 0) return openView(place);
  state.open = "";
  if (byId("view").open) byId("view").close();
}

/** @param {number} place */
function openView(place) {
  view.place = place;
  view.turn += 1;
  const item = grid.items[place];
  const wasOpen = state.open !== "";
  state.open = changes.names[item];
  writeAddress(wasOpen ? address.kind : "open", true);
  byId("view-title").textContent = byId("view-title").title = changes.names[item];
  byId("place").textContent = `${(place + 1).toLocaleString("en")} of ${grid.items.length.toLocaleString("en")}`;
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === grid.items.length - 1;
  byId("picture-note").textContent = "";
  showFacts(item);
  showPictures(item);
  showDialog();
}

/** @param {number} item */
function showFacts(item) {
  /** @type {(name: string, of: (side: number) => string) => [name: string, text: string][]} */
  const both = (name, of) => [[name + " A", of(0)], [name + " B", of(1)]];
  /** @type {[name: string, text: string][]} */
  const facts = [
    ...both("predicted", (side) => word(changes.predicted[side][item])),
    ...both("probability", (side) => plain(changes.probabilities[side][item])),
    ...both("map of", (side) => word(changes.explained[side][item])),
    ["correlation", plain(changes.correlations[item])],
    ["overlap", plain(changes.overlaps[item])],
    ...both("run", (side) => changes.runs[side]),
  ];
  const shown = facts.filter(([, text]) => text !== "");
  byId("facts").replaceChildren(...shown.flatMap(([name, text]) => [element("dt", "", name), element("dd", "", text)]));
}

/** @param {number} item */
function showPictures(item) {
  const turn = view.turn;
  /** @type {const} */ (["first", "second"]).forEach((id, side) => {
    const shown = byId(id);
    shown.removeAttribute("src");
    const url = overlayUrl(item, side);
    /** @type {(why: string) => void} */
    const missing = (why) => byId("picture-note").append(`${"AB"[side]}: ${why} `);
    if (!url) return missing("nothing is painted.");
    const picture = new Image();
    picture.onerror = () => turn === view.turn && missing("the overlay is not there.");
    picture.onload = () => {
      if (turn !== view.turn) return;
      shown.src = url;
      layEasel();
    };
    picture.src = url;
  });
  fade();
}

function layEasel() {
  const shown = [byId("first"), byId("second")].find((picture) => picture.naturalWidth > 0);
  if (!shown) return;
  const frame = byId("frame");
  const room = window.innerWidth <= 850 ? window.innerHeight * 0.6 : frame.clientHeight;
  const scale = Math.min(frame.clientWidth / shown.naturalWidth, room / shown.naturalHeight);
  byId("easel").style.width = shown.naturalWidth * scale + "px";
  byId("easel").style.height = shown.naturalHeight * scale + "px";
}

/** @param {number} [to] */
function fade(to) {
  if (to !== undefined) byId("fade").value = String(to);
  state.fade = Number(byId("fade").value);
  byId("second").style.opacity = String(state.fade / 100);
  writeAddress(address.kind);
}

/** @param {KeyboardEvent} event */
function ownKey(event) {
  if (event.key === " " && document.activeElement?.tagName !== "BUTTON") {
    event.preventDefault();
    fade(Number(byId("fade").value) < 50 ? 100 : 0);
    return true;
  }
  return event.key.startsWith("Arrow") && document.activeElement === byId("fade");
}

function startView() {
  startDialog(ownKey, layEasel);
  for (const [id, to] of /** @type {const} */ ([["to-first", 0], ["to-second", 100]])) byId(id).addEventListener("click", () => fade(to));
  byId("fade").addEventListener("input", () => fade());
  for (const id of /** @type {const} */ (["first", "second"])) byId(id).addEventListener("load", layEasel);
}

function startPage() {
  const parts = [`${counted(total, "image")} in both runs, ${every.filter(isFlip).length.toLocaleString("en")} predicted differently`];
  if (hasMaps) parts.push("median correlation of the maps " + number(changes.correlation));
  changes.only.forEach((count, side) => count && parts.push(`${counted(count, "image")} only in ${"AB"[side]}`));
  byId("summary").textContent = `A: ${changes.runs[0]}, B: ${changes.runs[1]}. ${parts.join("; ")}.`;
  const needing = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-needs=maps]"));
  for (const needy of needing) needy.hidden = !hasMaps;
  byId("no-maps").hidden = hasMaps;
  for (const choice of byId("sort").options) if (["correlation", "overlap"].includes(choice.value)) choice.disabled = !hasMaps;
  if (isTouched()) byId("grid").setAttribute("aria-label", "Pairs of pictures; tap one to open it");
  for (const id of /** @type {const} */ (["search", "sort"])) {
    byId(id).addEventListener("input", () => change({ [id]: byId(id).value }, id === "search" ? id : ""));
  }
  byId("flips").addEventListener("change", () => change({ flips: byId("flips").checked }));
  byId("direction").addEventListener("click", () => change({ descending: !state.descending }));
  for (const id of /** @type {const} */ (["reset", "reset-too"])) byId(id).addEventListener("click", () => change({ ...START }));
  startView();
  startGrid({ fill: drawCard, least: (room) => (room < 520 ? 280 : 340), shape: 0.4, onOpen: openView });
  startPanel();
  startAddress(addressFields(), follow);
  follow();
}

startPage();
