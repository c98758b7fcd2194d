"use strict";
// Groups of images by the evidence that a network uses: the page of camcli cluster.

/** @typedef {ClusterElements} PageElements */

/** @type {ClusterData} */
const NOTHING = {
  by: "predicted", evidence: "both", layer: "", method: "", small: 0, damaged: 0, runs: [], words: [],
  images: { name: [], run: [], class: [], group: [], x: [], y: [], p: [], correct: [], predicted: [], overlay: [], thumb: [], place: [] },
  classes: [],
};
const found = window.camcliClusters || NOTHING;
const tests = window.camcliTests || {};
const { images, classes, runs } = found;
const groupCount = classes.reduce((sum, each) => sum + each.groups.length, 0);
/** @type {Map<number, {klass: number, group: ClusterGroup, colour: number}>} */
const groupsByNumber = new Map();
classes.forEach((each, klass) => each.groups.forEach((group, place) => groupsByNumber.set(group.group, { klass, group, colour: 1 + (place % 8) })));

// klass: the place of the class; group: its number, 0 for all groups of the class, -1 for the images without one.
const START = { klass: 0, group: 0, sort: "group" };
const state = { ...START, open: "", panel: /** @type {"open" | "closed" | null} */ (null) };
const view = { place: 0, turn: 0 };
const NO_GROUP = -1;

/** @type {(image: number) => number} */
const colourOf = (image) => groupsByNumber.get(images.group[image])?.colour || 0;
/** @type {(image: number) => string} */
const overlayUrl = (image) => images.overlay[image] && runs[images.run[image]].url + images.overlay[image];
/** @type {(image: number) => string} */
const originalUrl = (image) => {
  const folder = runs[images.run[image]].original;
  return folder && folder + images.name[image].split("/").map(encodeURIComponent).join("/");
};
/** @type {(image: number) => string} */
const thumbUrl = (image) => (images.thumb[image] ? runs[images.run[image]].url + images.thumb[image] : overlayUrl(image) || originalUrl(image));

function select() {
  const each = classes[state.klass];
  const items = [];
  for (let image = each ? each.first : 0; each && image < each.end; image++) {
    const own = images.group[image];
    if (state.group === 0 || own === state.group || (state.group === NO_GROUP && own === 0)) items.push(image);
  }
  if (state.sort === "path") return sortedBy(items, (image) => images.name[image], false);
  if (state.sort === "confidence") return sortedBy(items, (image) => images.p[image], true);
  return sortedBy(items, (image) => images.group[image] || null, false);
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

/** @type {{klass: number, group: number}} */
const drawn = { klass: -1, group: -2 };

function update() {
  const each = classes[state.klass];
  if (!each) return;
  const isNewClass = drawn.klass !== state.klass;
  byId("class").value = String(state.klass);
  byId("class-before").disabled = state.klass === 0;
  byId("class-after").disabled = state.klass === classes.length - 1;
  if (isNewClass) fillGroups(each);
  byId("group").value = String(state.group);
  byId("sort").value = state.sort;
  if (isNewClass || drawn.group !== state.group) {
    drawGroups(each);
    drawLegend(each);
  }
  if (isNewClass) drawComponents(each);
  Object.assign(drawn, { klass: state.klass, group: state.group });
  drawScatter();
  const items = select();
  const left = each.images - (each.end - each.first);
  byId("count").textContent = `${items.length.toLocaleString("en")} of ${counted(each.end - each.first, "image")}`;
  byId("grid-title").textContent = state.group > 0 ? `Images of group ${state.group}` : state.group === NO_GROUP ? "Images in no group" : `All images of ${each.name}`;
  if (left > 0) byId("grid-title").textContent += ` (${counted(left, "image")} of the class not on this page, see clusters.csv)`;
  byId("nothing").hidden = items.length > 0;
  showItems(items);
}

/** @param {ClusterClass} each */
function fillGroups(each) {
  /** @type {(value: number, text: string) => HTMLOptionElement} */
  const choice = (value, text) => {
    const made = element("option", "", text);
    made.value = String(value);
    return made;
  };
  const choices = [choice(0, "all"), ...each.groups.map((group) => choice(group.group, `${group.group}${group.suspected ? " (suspected)" : ""}`))];
  byId("group").replaceChildren(...choices, choice(NO_GROUP, "none"));
}

/** @param {number} group */
const dotOf = (group) => {
  const dot = element("span", "dot");
  dot.style.setProperty("--dot", `var(--g${groupsByNumber.get(group)?.colour || 0})`);
  return dot;
};

/** @param {ClusterClass} each */
function drawLegend(each) {
  const all = [...each.groups.map((group) => group.group), NO_GROUP];
  byId("legend").replaceChildren(
    ...all.map((group) => {
      const button = element("button");
      button.type = "button";
      button.setAttribute("aria-pressed", String(state.group === group));
      button.append(dotOf(group), element("span", "", group === NO_GROUP ? "no group" : `group ${group}`));
      button.addEventListener("click", () => change({ group: state.group === group ? 0 : group }));
      return button;
    }),
  );
}

/**
 * Pictures in a row; a click opens one.
 * @param {number[]} items
 * @param {string} label
 */
function stripOf(items, label) {
  const strip = element("div", "strip");
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", label);
  for (const image of items) {
    const button = element("button");
    button.type = "button";
    button.title = images.name[image];
    button.setAttribute("aria-label", images.name[image]);
    const url = thumbUrl(image);
    button.append(url ? lazyPicture(url) : element("p", "", images.name[image]));
    button.addEventListener("click", () => openImage(image));
    strip.append(button);
  }
  return strip;
}

/** @param {string} url */
function lazyPicture(url) {
  const picture = pictureOf("", "not there");
  picture.loading = "lazy";
  picture.src = url;
  return picture;
}

/** @param {number} image */
function openImage(image) {
  if (state.group !== 0 && images.group[image] !== state.group) change({ group: 0 });
  const place = grid.items.indexOf(image);
  if (place >= 0) openView(place);
}

/** @param {ClusterClass} each */
function drawGroups(each) {
  const shown = each.groups.filter((group) => state.group === 0 || group.group === state.group);
  const cards = shown.map((group) => groupCard(each, group));
  if (!each.groups.length) cards.push(element("p", "quiet", "No groups: the images of this class are too few or too alike."));
  if (each.groups.length && !each.dense && state.group === 0) {
    cards.unshift(element("p", "quiet", "No place is dense in this class: these groups are a division into parts (k-means), not clusters."));
  }
  byId("groups").replaceChildren(...cards);
}

/**
 * @param {ClusterClass} each
 * @param {ClusterGroup} group
 */
function groupCard(each, group) {
  const card = element("section", "group");
  card.dataset.group = String(group.group);
  card.style.setProperty("--dot", `var(--g${groupsByNumber.get(group.group)?.colour || 0})`);
  const heading = element("h2", "", `Group ${group.group}`);
  if (group.suspected) heading.append(element("span", "badge", "possible shortcut"));
  const test = tests[String(group.group)];
  if (test) heading.append(element("span", "badge confirmed", test.confirmed ? "confirmed by a test" : "not confirmed by a test"));
  heading.append(element("span", "quiet", `${group.images.toLocaleString("en")} of ${counted(each.images, "image")} (${percent(group.share)})`));
  const top = element("div", "top");
  const words = element("div");
  words.append(factsOf(group));
  if (group.flags.length) words.append(flagList(group));
  const map = group.map ? mapPicture(group.map, group.group) : element("p", "quiet", "no maps");
  top.append(map, words);
  card.append(heading, top);
  if (test) card.append(testTable(test));
  /** @type {(title: string, strip: HTMLElement) => HTMLElement} */
  const titled = (title, strip) => {
    const box = element("div");
    box.append(element("h3", "", title), strip);
    return box;
  };
  card.append(titled("Most typical", stripOf(group.typical, "Most typical images")), titled("Least typical", stripOf(group.untypical, "Least typical images")));
  if (group.channels.length) card.append(channelBox(group));
  card.append(actsOf(group));
  return card;
}

/** @param {ClusterGroup} group */
function factsOf(group) {
  const facts = element("dl");
  /** @type {(inside: number | null, outside: number | null) => string} */
  const pair = (inside, outside) => (inside === null ? "" : percent(inside) + (outside === null ? "" : ` (outside ${percent(outside)})`));
  const rows = [
    ["right", pair(group.accuracy, group.accuracy_outside)],
    ["mean probability", pair(group.confidence, group.confidence_outside)],
    ["apart from the rest", `${group.silhouette.toFixed(2)} (silhouette, -1 to 1)`],
  ];
  for (const [name, text] of rows) if (text) facts.append(element("dt", "", name), element("dd", "", text));
  return facts;
}

/** @param {ClusterGroup} group */
function flagList(group) {
  const list = element("ul", "flags");
  for (const [words, figures] of group.flags) {
    const item = element("li");
    item.append(element("b", "", words), `: ${figures}`);
    list.append(item);
  }
  return list;
}

/** @param {ClusterTest} test */
function testTable(test) {
  const box = element("div", "table");
  const table = element("table", "test");
  const keys = /** @type {const} */ (["images", "before", "after", "fall", "from", "to"]);
  const head = element("thead");
  const names = element("tr");
  for (const name of ["test", ...keys]) names.append(element("th", "", name));
  head.append(names);
  const body = element("tbody");
  for (const row of test.rows) {
    const line = element("tr");
    line.append(element("th", "", row.what));
    for (const key of keys) line.append(element("td", "", typeof row[key] === "number" ? (key === "images" ? String(row[key]) : Number(row[key]).toFixed(3)) : ""));
    body.append(line);
  }
  table.append(head, body);
  box.append(table, element("p", "", test.verdict));
  return box;
}

/** @param {ClusterGroup} group */
function channelBox(group) {
  const box = element("details");
  box.append(element("summary", "", "Channels that set the group apart"));
  box.addEventListener("toggle", () => {
    if (!box.open || box.children.length > 1) return;
    for (const channel of group.channels) {
      const title = `Channel ${channel.channel}: adds ${channel.inside.toFixed(2)} to the logit, ${channel.outside.toFixed(2)} outside`;
      box.append(element("h3", "", title), stripOf(channel.images, `Images that use channel ${channel.channel} most`));
    }
  });
  return box;
}

/** @param {ClusterGroup} group */
function actsOf(group) {
  const acts = element("div", "acts");
  const button = element("button", "", state.group === group.group ? "Show all groups" : "Show only this group");
  button.type = "button";
  button.addEventListener("click", () => {
    change({ group: state.group === group.group ? 0 : group.group });
    window.scrollTo(0, 0);
  });
  acts.append(button);
  runs.forEach((run, place) => {
    const link = run.report ? reportLink(group, place) : "";
    if (!link) return;
    const made = element("a", "", runs.length > 1 ? `In the report of ${run.name}` : "In the report of the run");
    made.href = link;
    acts.append(made);
  });
  return acts;
}

/**
 * The address of a run's report that shows a group: a bit for each image of the report.
 * @param {ClusterGroup} group
 * @param {number} run
 */
function reportLink(group, run) {
  const klass = groupsByNumber.get(group.group)?.klass || 0;
  const { first, end, images: all, name } = classes[klass];
  if (end - first < all) return "";
  const bits = new Uint8Array(Math.ceil(runs[run].images / 8));
  let some = false;
  for (let image = first; image < end; image++) {
    if (images.group[image] !== group.group || images.run[image] !== run) continue;
    bits[images.place[image] >> 3] |= 1 << (images.place[image] & 7);
    some = true;
  }
  const text = btoa(String.fromCharCode(...bits)).replace(/A+=*$|=+$/, "").replace(/\+/g, "-").replace(/\//g, "_");
  const value = `${runs[run].images}.${text}.group ${group.group} of ${name}`;
  if (!some || value.length > LONGEST_PART) return "";
  return `${runs[run].url}report.html#${new URLSearchParams({ group: value })}`;
}

/**
 * A mean map, in the group's colour.
 * @param {number[][]} values
 * @param {number} group
 */
function mapPicture(values, group) {
  const canvas = element("canvas");
  canvas.height = values.length;
  canvas.width = values[0].length;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Mean map of group ${group}: where its evidence is`);
  const paint = canvas.getContext("2d");
  const ink = colour("--accent");
  if (paint) {
    paint.fillStyle = ink;
    values.forEach((row, y) =>
      row.forEach((value, x) => {
        paint.globalAlpha = value;
        paint.fillRect(x, y, 1, 1);
      }),
    );
  }
  return canvas;
}

/** @param {string} name */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** @param {ClusterClass} each */
function drawComponents(each) {
  byId("components-box").hidden = !each.components.length;
  byId("components").replaceChildren(
    ...each.components.map(({ share, low, high }, place) => {
      const box = element("section");
      box.append(element("h3", "", `Component ${place + 1}: ${percent(share)} of the variance`), stripOf(high, "High end"), stripOf(low, "Low end"));
      return box;
    }),
  );
}

function drawScatter() {
  const canvas = byId("scatter");
  const side = byId("scatter-box").clientWidth;
  const each = classes[state.klass];
  const paint = canvas.getContext("2d");
  if (!side || !each || !paint) return;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(side * ratio);
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
  const colours = Array.from({ length: 9 }, (_, number) => colour(`--g${number}`));
  const size = each.end - each.first > 2000 ? 1.8 : 3.2;
  /** @type {(image: number) => boolean} */
  const isChosen = (image) => state.group === 0 || images.group[image] === (state.group === NO_GROUP ? 0 : state.group);
  for (const strong of state.group === 0 ? [true] : [false, true]) {
    paint.globalAlpha = strong ? 0.85 : 0.18;
    for (let number = 0; number < 9; number++) {
      paint.fillStyle = colours[number];
      paint.beginPath();
      for (let image = each.first; image < each.end; image++) {
        if (colourOf(image) !== number || isChosen(image) !== strong) continue;
        const [x, y] = placeOf(image, side);
        if (size < 2) {
          paint.rect(x - size, y - size, 2 * size, 2 * size); // a third of the time of circles, which are not told apart
          continue;
        }
        paint.moveTo(x + size, y);
        paint.arc(x, y, size, 0, 7);
      }
      paint.fill();
    }
  }
  paint.globalAlpha = 1;
}

const EDGE = 12;
/** @type {(image: number, side: number) => [number, number]} */
const placeOf = (image, side) => [EDGE + images.x[image] * (side - 2 * EDGE), EDGE + images.y[image] * (side - 2 * EDGE)];

/**
 * The image whose point is nearest to the pointer.
 * @param {MouseEvent} event
 */
function pointedImage(event) {
  const box = byId("scatter").getBoundingClientRect();
  const each = classes[state.klass];
  let best = -1;
  let least = 24 ** 2;
  for (let image = each.first; image < each.end; image++) {
    const [x, y] = placeOf(image, box.width);
    const distance = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
    if (distance < least) [best, least] = [image, distance];
  }
  return best;
}

function startScatter() {
  const canvas = byId("scatter");
  canvas.addEventListener("click", (event) => {
    const image = pointedImage(event);
    if (image < 0) return change({ group: 0 });
    byId("pointed").textContent = `${images.name[image]}, ${images.group[image] ? "group " + images.group[image] : "no group"}`;
    change({ group: images.group[image] || NO_GROUP });
  });
  canvas.addEventListener("keydown", (event) => {
    const each = classes[state.klass];
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const order = [0, ...each.groups.map((group) => group.group), NO_GROUP];
    change({ group: order[(order.indexOf(state.group) + step + order.length) % order.length] }, "scatter");
  });
  new ResizeObserver(() => drawScatter()).observe(byId("scatter-box"));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawn.group = -2;
    update();
  });
}

/**
 * @param {HTMLElement} card
 * @param {number} image
 */
function drawCard(card, image) {
  const thumb = element("span", "thumb");
  const url = thumbUrl(image);
  thumb.append(url ? pictureOf(url, "its overlay is not there") : element("p", "", "not painted"));
  const heading = element("span", "class");
  const predicted = found.words[images.predicted[image]];
  heading.append(dotOf(images.group[image]), element("b", "", predicted), element("i", "", percent(images.p[image])));
  if (images.correct[image] === 0) card.classList.add("wrong");
  const parts = [images.group[image] ? `group ${images.group[image]}` : "no group"];
  if (images.correct[image] !== null) parts.push(images.correct[image] ? "right" : "wrong");
  card.append(thumb, heading, element("span", "under", parts.join(" · ")), pathLine(images.name[image]));
}

// Open or close the view as the address says; an image that is not among the cards is not opened.
function followOpened() {
  const place = state.open === "" ? -1 : grid.items.findIndex((image) => images.name[image] === state.open);
  if (place >= 0) return openView(place);
  state.open = "";
  if (byId("view").open) byId("view").close();
}

/** @param {number} place */
function openView(place) {
  view.place = place;
  view.turn += 1;
  const image = grid.items[place];
  const wasOpen = state.open !== "";
  state.open = images.name[image];
  writeAddress(wasOpen ? address.kind : "open", true);
  byId("view-title").textContent = byId("view-title").title = images.name[image];
  byId("place").textContent = `${(place + 1).toLocaleString("en")} of ${grid.items.length.toLocaleString("en")}`;
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === grid.items.length - 1;
  byId("picture-note").textContent = "";
  const facts = [
    ["predicted", found.words[images.predicted[image]]],
    ["probability", plain(images.p[image])],
    ["right", images.correct[image] === null ? "" : images.correct[image] ? "yes" : "no"],
    ["group", images.group[image] ? String(images.group[image]) : "none"],
    ["run", runs[images.run[image]].name],
  ];
  byId("facts").replaceChildren(...facts.filter(([, text]) => text).flatMap(([name, text]) => [element("dt", "", name), element("dd", "", text)]));
  showPicture(image);
  showDialog();
}

/** @param {number} image */
function showPicture(image) {
  const turn = view.turn;
  const shown = byId("first");
  shown.removeAttribute("src");
  const url = overlayUrl(image) || originalUrl(image);
  /** @type {(why: string) => void} */
  const missing = (why) => (byId("picture-note").textContent = why);
  if (!url) return missing("Nothing is painted.");
  const picture = new Image();
  picture.onerror = () => turn === view.turn && missing("The picture is not there.");
  picture.onload = () => {
    if (turn !== view.turn) return;
    shown.src = url;
    layEasel();
  };
  picture.src = url;
}

function layEasel() {
  const shown = byId("first");
  if (!shown.naturalWidth) return;
  const frame = byId("frame");
  const room = window.innerWidth <= 850 ? window.innerHeight * 0.6 : frame.clientHeight;
  const scale = Math.min(frame.clientWidth / shown.naturalWidth, room / shown.naturalHeight);
  byId("easel").style.width = shown.naturalWidth * scale + "px";
  byId("easel").style.height = shown.naturalHeight * scale + "px";
}

function addressFields() {
  const places = new Map(classes.map((each, place) => [each.name, place]));
  return {
    class: part(state, "klass", { start: 0, parse: (name) => places.get(name), format: (place) => classes[place].name }),
    group: part(state, "group", {
      start: 0,
      parse: (text) => (text === "none" ? NO_GROUP : groupsByNumber.has(Number(text)) ? Number(text) : undefined),
      format: (group) => (group === NO_GROUP ? "none" : String(group)),
    }),
    sort: part(state, "sort", { start: "group", parse: oneOf(["group", "confidence", "path"]) }),
    open: part(state, "open", { start: "" }),
    panel: part(state, "panel", { start: null, parse: oneOf(/** @type {const} */ (["open", "closed"])) }),
  };
}

// A group in the address brings its class with it.
function followGroup() {
  const own = groupsByNumber.get(state.group);
  if (own) state.klass = own.klass;
  follow();
}

function startPage() {
  byId("broken").hidden = Boolean(window.camcliClusters);
  const suspected = classes.flatMap((each) => each.groups).filter((group) => group.suspected).length;
  const verdict = suspected ? `${counted(suspected, "group")} may be a shortcut` : "none looks like a shortcut";
  const what = { both: "what the evidence is and where", what: "what the evidence is", where: "where the evidence is" }[found.evidence];
  const left = found.small ? ` ${found.small === 1 ? "1 class has" : found.small.toLocaleString("en") + " classes have"} too few images.` : "";
  byId("summary").textContent = `${counted(groupCount, "group")} by ${what}, by ${found.by} class; ${verdict}. Layer ${found.layer}, ${found.method}.${left}`;
  for (const [place, each] of classes.entries()) {
    const some = each.groups.filter((group) => group.suspected).length;
    const choice = element("option", "", `${each.name} (${counted(each.images, "image")}${some ? ", " + some + " suspected" : ""})`);
    choice.value = String(place);
    byId("class").append(choice);
  }
  /** @param {number} place */
  const go = (place) => change({ klass: place, group: 0 });
  byId("class").addEventListener("input", () => go(Number(byId("class").value)));
  byId("class-before").addEventListener("click", () => go(state.klass - 1));
  byId("class-after").addEventListener("click", () => go(state.klass + 1));
  byId("group").addEventListener("input", () => change({ group: Number(byId("group").value) }));
  byId("sort").addEventListener("input", () => change({ sort: byId("sort").value }));
  for (const id of /** @type {const} */ (["reset", "reset-too"])) byId(id).addEventListener("click", () => change({ ...START }));
  if (isTouched()) byId("grid").setAttribute("aria-label", "Pictures; tap one to open it");
  startDialog(() => false, layEasel);
  byId("first").addEventListener("load", layEasel);
  startGrid({ fill: drawCard, least: (room) => (room < 520 ? 150 : 176), shape: 1, onOpen: openView });
  startScatter();
  startPanel();
  startAddress(addressFields(), followGroup);
  followGroup();
}

startPage();
