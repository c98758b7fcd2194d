"use strict";
// Charts of the images: pale for all of them, strong for those that the filters let through. Each part is a filter itself.

const MOST_BARS = 12;
const MOST_CONFUSED = 12;
const BINS = 10;

/** @type {(image: number) => number | null} */
const binOf = (image) => {
  const value = images.confidence[image];
  return value === null ? null : Math.min(BINS - 1, Math.max(0, Math.floor(value * BINS + 1e-9)));
};
const allImages = images.name.map((_, image) => image);
const totals = {
  predicted: tally((image) => images.predicted[image], allImages),
  bins: tally(binOf, allImages),
  label: tally((image) => images.label[image], allImages),
};
/** Classes and their counts, the most frequent first. @type {(counts: Map<WordNumber, number>) => [WordNumber, number][]} */
const common = (counts) => [...counts].sort((a, b) => b[1] - a[1] || (data.words[a[0]] < data.words[b[0]] ? -1 : 1));

/**
 * @param {Set<number>} passing images
 * @param {Change} change
 */
function drawClasses(passing, change) {
  const now = tally((image) => images.predicted[image], passing);
  const bars = common(totals.predicted).slice(0, MOST_BARS);
  const most = Math.max(1, ...bars.map(([, count]) => count));
  const svg = shape("svg", { viewBox: `0 0 280 ${bars.length * 30}`, role: "group", "aria-label": "Images by predicted class" });
  bars.forEach(([key, count], place) => {
    const name = word(key);
    const pressed = state.predicted === name;
    const group = shape("g", { transform: `translate(0 ${place * 30})`, "data-class": name });
    const shown = now.get(key) || 0;
    const brief = name.length > 34 ? name.slice(0, 33) + "…" : name;
    group.append(
      shape("text", { x: 0, y: 13 }, brief),
      shape("text", { x: 280, y: 13, class: "number" }, shown === count ? String(count) : `${shown} of ${count}`),
      shape("rect", { x: 0, y: 18, width: (280 * count) / most, height: 7, rx: 2, class: "all" }),
      shape("rect", { x: 0, y: 18, width: (280 * shown) / most, height: 7, rx: 2, class: "now" }),
      shape("rect", { x: -4, y: 0, width: 288, height: 28, rx: 4, class: "hit" }),
    );
    pressable(group, `${name}: ${shown} of ${count}`, pressed, () => change({ predicted: pressed ? "" : name }));
    svg.append(group);
  });
  const rest = totals.predicted.size - bars.length;
  replaceChart("classes", [svg, ...(rest > 0 ? [element("p", "quiet", `and ${rest.toLocaleString("en")} more`)] : [])]);
}

/**
 * @param {Set<number>} passing images
 * @param {Change} change
 */
function drawHistogram(passing, change) {
  const svg = histogram({ all: totals.bins, now: tally(binOf, passing), bins: BINS, label: "Images by confidence" }, (bin) => {
    const [low, high] = [bin / BINS, (bin + 1) / BINS];
    const pressed = state.low === low && state.high === high;
    return { name: `${low} to ${high}`, pressed, act: () => change(pressed ? { low: 0, high: 1 } : { low, high }) };
  });
  for (const tick of [0, 0.5, 1]) svg.append(shape("text", { x: 280 * tick, y: 107, class: "tick" }, String(tick)));
  replaceChart("histogram", [svg]);
}

/**
 * The classes that were taken for one another most often, then the largest; and how many classes there are.
 * @returns {[classes: WordNumber[], count: number]}
 */
function confusedClasses() {
  const wrong = tally((image) => (images.correct[image] === 0 ? images.label[image] + " " + images.predicted[image] : null), allImages);
  const pairs = [...wrong].sort((a, b) => b[1] - a[1]).flatMap(([pair]) => pair.split(" ").map(Number));
  const largest = common(totals.label).map(([key]) => key);
  const keys = [...new Set([...pairs, ...largest])];
  return [keys.slice(0, MOST_CONFUSED).sort((a, b) => (word(a) < word(b) ? -1 : 1)), keys.length];
}

const confused = confusedClasses();

/**
 * @param {Set<number>} passing images
 * @param {Change} change
 */
function drawConfusion(passing, change) {
  const [classes, count] = confused;
  if (!classes.length) return;
  /** @type {(image: number) => string | null} */
  const pair = (image) => (images.label[image] === null ? null : images.label[image] + " " + images.predicted[image]);
  const all = tally(pair, allImages);
  const now = tally(pair, passing);
  const table = element("table");
  const head = table.createTHead().insertRow();
  head.append(element("td", "quiet", "true ↓"));
  for (const key of classes) {
    const cell = element("th");
    cell.scope = "col";
    cell.title = word(key);
    cell.append(element("span", "", word(key)));
    head.append(cell);
  }
  const body = table.createTBody();
  for (const label of classes) body.append(confusionRow(label, classes, all, now, change));
  const note = count > classes.length ? [element("p", "quiet", `the ${classes.length} most confused of ${count} classes`)] : [];
  replaceChart("confusion", [table, ...note]);
}

/**
 * The mean of the chosen metric over the maps of the images, by method and layer.
 * @param {Set<number>} passing images
 */
function drawMetrics(passing) {
  const column = data.metrics[state.metric];
  if (!column) {
    replaceChart("metrics", []);
    return;
  }
  /** @type {Map<string, [sum: number, count: number]>} */
  const means = new Map();
  const isItem = itemTest();
  for (let row = 0; row < rowCount; row++) {
    const value = column[row];
    if (value === null || !passing.has(rows.image[row]) || !isItem(row)) continue;
    const name = word(rows.method[row]) + (many.layer ? " · " + word(rows.layer[row]) : "");
    const [sum, count] = means.get(name) || [0, 0];
    means.set(name, [sum + value, count + 1]);
  }
  const table = element("table");
  table.className = "means";
  const head = table.createTHead().insertRow();
  for (const text of ["method", "mean", "maps"]) head.append(element("th", "", text));
  const body = table.createTBody();
  for (const [name, [sum, count]] of means) {
    const line = body.insertRow();
    for (const text of [name, (sum / count).toFixed(3), count.toLocaleString("en")]) line.append(element("td", "", text));
  }
  replaceChart("metrics", [table]);
}

/**
 * @param {WordNumber} label
 * @param {WordNumber[]} classes
 * @param {Map<string, number>} all counts of pairs "label predicted"
 * @param {Map<string, number>} now
 * @param {Change} change
 */
function confusionRow(label, classes, all, now, change) {
  const line = element("tr");
  const name = element("th", "", word(label));
  name.scope = "row";
  name.title = word(label);
  line.append(name);
  for (const predicted of classes) {
    const cell = line.insertCell();
    const total = all.get(label + " " + predicted) || 0;
    if (!total) continue;
    const shown = now.get(label + " " + predicted) || 0;
    const pressed = state.label === word(label) && state.predicted === word(predicted);
    const button = element("button", (label === predicted ? "diagonal" : "") + (shown ? "" : " none"), String(shown));
    button.type = "button";
    button.style.setProperty("--share", String(Math.max(0.15, total / (totals.label.get(label) || 1))));
    button.setAttribute("aria-pressed", String(pressed));
    button.title = `${word(label)} taken for ${word(predicted)}: ${shown} of ${total}`;
    button.setAttribute("aria-label", button.title);
    button.addEventListener("click", () => change(pressed ? { label: "", predicted: "" } : { label: word(label), predicted: word(predicted) }));
    cell.append(button);
  }
  return line;
}
