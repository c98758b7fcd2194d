"use strict";
// The large view of one item: original and overlay in one place, what the table says, and the other maps of the same image.

// map: raw, once it is loaded; size: of the overlay in its own pixels, scale: those by the original's; cell: of the map, half: of the
// overlay that shows it; turn: changes when another item is shown.
const view = {
  place: 0,
  item: 0,
  /** @type {RawMap | null} */
  map: null,
  /** @type {{width: number, height: number, scale?: number} | null} */
  size: null,
  /** @type {{row: number, column: number, half: number} | null} */
  cell: null,
  turn: 0,
};
/** @typedef {(act: () => void) => void} Still  Acts unless another item is shown by then. */

/** @param {number} place */
function openView(place) {
  view.place = place;
  showItem(grid.items[place]);
  showDialog();
  layStage();
}

// Open or close the view as the address says; an image that is not among the cards is not opened.
function followOpened() {
  const { open, map } = state;
  const place = open === "" ? -1 : grid.items.findIndex((item) => images.name[imageOf(item)] === open);
  if (place < 0) {
    state.open = "";
    if (byId("view").open) byId("view").close();
    return;
  }
  const own = rowsOfImage.get(imageOf(grid.items[place])) || [];
  const item = own[map] === undefined ? grid.items[place] : own[map];
  view.place = Math.max(place, grid.items.indexOf(item));
  byId("opacity").value = String(state.opacity);
  showItem(item);
  showDialog();
  layStage();
}

/** @param {number} item */
function noteOpened(item) {
  const image = imageOf(item);
  const wasOpen = state.open !== "";
  state.open = images.name[image];
  state.map = isFailure(item) ? 0 : (rowsOfImage.get(image) || []).indexOf(item);
  writeAddress(wasOpen ? address.kind : "open", true);
}

/** @param {number} item */
function showItem(item) {
  view.item = item;
  view.turn += 1;
  view.map = view.size = view.cell = null;
  noteOpened(item);
  const image = imageOf(item);
  byId("view-title").textContent = images.name[image];
  byId("view-title").title = images.name[image];
  byId("place").textContent = `${(view.place + 1).toLocaleString("en")} of ${grid.items.length.toLocaleString("en")}`;
  byId("previous").disabled = view.place === 0;
  byId("next").disabled = view.place === grid.items.length - 1;
  byId("cell").hidden = true;
  byId("value").textContent = "";
  byId("picture-note").textContent = "";
  byId("easel").removeAttribute("tabindex");
  for (const id of /** @type {const} */ (["original", "overlay"])) byId(id).removeAttribute("src");
  showFacts(item);
  showOthers(item);
  showPictures(item);
}

/** @type {(text: string) => void} */
const say = (text) => byId("picture-note").append((byId("picture-note").textContent ? " " : "") + text);

/** @param {string} why */
function withoutOriginal(why) {
  byId("original").removeAttribute("src");
  byId("opacity").disabled = true;
  byId("overlay").style.opacity = "1";
  say(why);
}

/** @param {number} item */
function showPictures(item) {
  const turn = view.turn;
  /** @type {Still} */
  const still = (act) => (turn === view.turn ? act() : undefined);
  const overlay = byId("overlay");
  byId("opacity").disabled = false;
  overlay.style.opacity = String(Number(byId("opacity").value) / 100);
  const url = isFailure(item) ? "" : overlayUrl(item);
  if (!url && statusOf(item) === "ok") say("The run was not asked for an overlay of this image.");
  else if (!url) say(isFailure(item) ? "This image was not explained." : "Nothing is painted: the map is " + statusOf(item) + ".");
  const picture = new Image();
  picture.onload = () => still(() => {
    overlay.src = url;
    view.size = { width: picture.naturalWidth, height: picture.naturalHeight };
    layStage();
    showOriginal(item, still);
    if (data.maps) loadMap(item).then((map) => still(() => useMap(map)));
    else say(`Values ${isTouched() ? "where you tap" : "under the mouse"} come from raw maps: camcli run --save-maps.`);
  });
  picture.onerror = () => still(() => {
    say("The overlay is not there.");
    showOriginal(item, still);
  });
  if (url) picture.src = url;
  else showOriginal(item, still);
}

/**
 * @param {number} item
 * @param {Still} still
 */
function showOriginal(item, still) {
  const image = imageOf(item);
  if (view.size && data.settings.style === "side-by-side") return withoutOriginal("The overlay shows the original beside the map.");
  if (images.original[image] === 1) return withoutOriginal("The original was gone when this report was written.");
  if (images.original[image] === 2) return withoutOriginal("Browsers do not show originals of this format.");
  const places = data.originals.filter((place) => location.protocol === "file:" || !place.startsWith("file:"));
  const attempt = () => {
    const place = places.shift();
    if (place === undefined) return withoutOriginal("The original is gone, or the browser cannot show it.");
    const picture = new Image();
    picture.onerror = () => still(attempt);
    picture.onload = () => still(() => useOriginal(picture));
    picture.src = place + imageUrl(image);
  };
  attempt();
}

/**
 * Browsers turn most originals upright themselves; one that has another shape than its overlay would not lie under it.
 * @param {HTMLImageElement} picture
 */
function useOriginal(picture) {
  const original = { width: picture.naturalWidth, height: picture.naturalHeight };
  const isAlone = !view.size;
  if (isAlone) byId("opacity").disabled = true;
  view.size = view.size || original;
  const inner = isAlone ? original.height : photoHeight(view.size.width, view.size.height); // without overlay there is no legend
  const off = (view.size.width / inner) / (original.width / original.height);
  if (off < 0.97 || off > 1.03) return withoutOriginal("The browser shows the original in another shape than the overlay.");
  view.size.scale = view.size.width / original.width;
  byId("original").style.height = (100 * inner) / view.size.height + "%";
  byId("original").src = picture.src;
  layStage();
}

function layStage() {
  if (!view.size) return;
  const frame = byId("frame");
  const phone = window.innerWidth <= 850;
  const room = phone ? window.innerHeight * 0.6 : frame.clientHeight;
  const scale = Math.min(frame.clientWidth / view.size.width, room / view.size.height);
  byId("easel").style.width = view.size.width * scale + "px";
  byId("easel").style.height = view.size.height * scale + "px";
  markCell();
}

/** @param {RawMap | null} map */
function useMap(map) {
  view.map = map;
  if (!map) return say("Its raw map is not there.");
  byId("easel").tabIndex = 0;
  byId("value").textContent = `${map.height} × ${map.width} map; ${isTouched() ? "tap" : "point at"} it for its values`;
}

// Where in the stage, as fractions of it, the map lies: {x, y, w, h, halves}.
function mapPlace() {
  if (!view.map || !view.size) return null;
  const halves = data.settings.style === "side-by-side" ? 2 : 1;
  const inner = photoHeight(view.size.width, view.size.height);
  const scale = data.settings["max-side"] ? view.size.scale : 1;
  if (!scale) return null;
  const width = view.size.width / halves / scale;
  const height = inner / scale;
  const box = mapBox(view.item, width, height);
  const down = inner / view.size.height / height;
  return box && { x: box.x / width / halves, y: box.y * down, w: box.w / width / halves, h: box.h * down, halves };
}

/** @param {PointerEvent} event */
function pointAt(event) {
  const box = byId("easel").getBoundingClientRect();
  const { map } = view;
  const place = mapPlace();
  if (!map || !place) return;
  const across = (event.clientX - box.left) / box.width;
  const half = Math.floor(across * place.halves) / place.halves;
  const column = Math.floor(((across - half - place.x) / place.w) * map.width);
  const row = Math.floor((((event.clientY - box.top) / box.height - place.y) / place.h) * map.height);
  const inside = column >= 0 && column < map.width && row >= 0 && row < map.height;
  view.cell = inside ? { row, column, half } : null;
  markCell();
  if (!inside) byId("value").textContent = "outside of what the network saw";
}

function markCell() {
  const place = mapPlace();
  const mark = byId("cell");
  const { cell, map } = view;
  mark.hidden = !cell || !place;
  if (!cell || !map || !place) return;
  const { row, column, half } = cell;
  const { height, width, values } = map;
  const value = values[row * width + column];
  mark.style.left = 100 * (half + place.x + (place.w * column) / width) + "%";
  mark.style.top = 100 * (place.y + (place.h * row) / height) + "%";
  mark.style.width = (100 * place.w) / width + "%";
  mark.style.height = (100 * place.h) / height + "%";
  const peak = rows.peak[view.item];
  const share = peak !== null && peak > 0 ? ` (${Math.round((100 * value) / peak)} % of the peak)` : "";
  byId("value").textContent = `${plain(value)}${share}, row ${row + 1} of ${height}, column ${column + 1} of ${width}`;
}

/**
 * @param {RawMap} map
 * @param {string} key
 */
function moveCell(map, key) {
  /** @type {Record<string, [number, number]>} */
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const from = view.cell || { row: Math.floor(map.height / 2), column: Math.floor(map.width / 2), half: 0 };
  /** @type {(value: number, end: number) => number} */
  const clamp = (value, end) => Math.min(Math.max(value, 0), end - 1);
  const [down, right] = view.cell ? steps[key] : [0, 0];
  view.cell = { ...from, row: clamp(from.row + down, map.height), column: clamp(from.column + right, map.width) };
  markCell();
}

/** @param {number} item */
function showFacts(item) {
  const image = imageOf(item);
  /** @type {[name: string, text: string, kind?: "good" | "bad"][]} */
  const facts = [];
  if (isFailure(item)) {
    facts.push(["status", FAILED, "bad"], ["stage", failures.stage[item - rowCount]], ["reason", failures.error[item - rowCount]]);
  } else {
    facts.push(
      ["explained", word(rows.class_name[item])], ["probability", plain(rows.probability[item])], ["rank", plain(rows.rank[item])],
      ["logit", plain(rows.logit[item])], ["predicted", word(images.predicted[image]) + (images.confidence[image] === null ? "" : ` (${plain(images.confidence[image])})`)],
    );
    if (images.label[image] !== null) {
      const right = images.correct[image] === 1;
      facts.push(["true class", word(images.label[image])]);
      if (images.correct[image] !== null) facts.push(["prediction", right ? "right" : "wrong", right ? "good" : "bad"]);
    }
    facts.push(
      ["margin", plain(margins[image])], ["layer", word(rows.layer[item])], ["method", word(rows.method[item])],
      ["status", word(rows.status[item])], ["peak", plain(rows.peak[item])], ["entropy", percent(rows.entropy[item])],
      ["at the border", percent(rows.border[item])],
      ["network saw", boxText(item)],
      ...Object.entries(data.metrics).map(([name, column]) => /** @type {[string, string]} */ ([name, plain(column[item])])),
    );
  }
  byId("facts").replaceChildren(
    ...facts.filter(([, text]) => text !== "").flatMap(([name, text, kind]) => [element("dt", "", name), element("dd", kind || "", text)]),
  );
}

/** @param {number} item */
function boxText(item) {
  const [x, y, w, h] = /** @type {const} */ (["box_x", "box_y", "box_w", "box_h"]).map((key) => plain(rows[key][item]));
  return w && h ? `${w} × ${h} from ${x}, ${y}` : "";
}

/** @param {number} item */
function showOthers(item) {
  const own = (!isFailure(item) && rowsOfImage.get(imageOf(item))) || [];
  byId("others-title").hidden = own.length < 2;
  byId("others").replaceChildren(...(own.length < 2 ? [] : own.map((row) => otherButton(row, row === item))));
}

/**
 * @param {number} row
 * @param {boolean} isShown
 */
function otherButton(row, isShown) {
  const button = element("button");
  button.type = "button";
  button.dataset.item = String(row);
  button.setAttribute("aria-current", String(isShown));
  const rank = rows.rank[row] === null ? "" : rows.rank[row] + " · ";
  const name = `${rank}${word(rows.class_name[row])} ${percent(rows.probability[row])}`;
  const how = many.method ? `${word(rows.layer[row])} · ${word(rows.method[row])}` : word(rows.layer[row]);
  button.append(...thumbnail(row).childNodes, element("span", "", name), element("span", "quiet", how));
  button.addEventListener("click", () => {
    showItem(row);
    /** @type {HTMLElement | null} */ (byId("others").querySelector('[aria-current="true"]'))?.focus({ preventScroll: true });
  });
  return button;
}

/** @param {KeyboardEvent} event */
function ownKey(event) {
  if (!event.key.startsWith("Arrow")) return false;
  if (document.activeElement === byId("opacity")) return true;
  if (document.activeElement !== byId("easel") || !view.map) return false;
  event.preventDefault();
  moveCell(view.map, event.key);
  return true;
}

function startView() {
  startDialog(ownKey, layStage);
  byId("opacity").addEventListener("input", () => {
    state.opacity = Number(byId("opacity").value);
    byId("overlay").style.opacity = String(state.opacity / 100);
    writeAddress(address.kind);
  });
  byId("easel").addEventListener("pointermove", pointAt);
  byId("easel").addEventListener("pointerdown", pointAt);
}
