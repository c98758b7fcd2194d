"use strict";
// The controls: each change goes through the state, and the page follows.

const MOST_CHOICES = 50;
const TEXTS = /** @type {const} */ (["search", "predicted", "explained", "label", "right", "layer", "method", "stage", "sort", "metric"]);
const many = { layer: new Set(rows.layer).size > 1, method: new Set(rows.method).size > 1 };
const severalRows = [...rowsOfImage.values()].some((own) => own.length > 1);

/**
 * @param {Partial<typeof state>} changes
 * @param {string} [kind] see writeAddress
 */
function change(changes, kind) {
  Object.assign(state, changes);
  update();
  writeAddress(kind || Object.keys(changes).join() + Object.values(changes).join());
}

function update() {
  showState();
  const found = select();
  showItems(found.items);
  const cards = state.single ? "" : ", " + counted(found.items.length, "card");
  const group = groupOf(state.group);
  byId("count").textContent = `${group ? group.name + ": " : ""}${found.images.size.toLocaleString("en")} of ${counted(images.name.length, "image")}${cards}`;
  byId("nothing").hidden = found.items.length > 0;
  drawClasses(found.images, change);
  drawHistogram(found.images, change);
  drawConfusion(found.images, change);
  drawMetrics(found.images);
}

function showState() {
  for (const id of TEXTS) if (byId(id).value !== state[id]) byId(id).value = state[id];
  for (const id of /** @type {const} */ (["low", "high"])) if (Number(byId(id).value) !== state[id]) byId(id).value = String(state[id]);
  for (const id of /** @type {const} */ (["least", "most"])) if (byId(id).value !== state[id]) byId(id).value = state[id];
  byId("single").checked = state.single;
  byId("direction").textContent = state.descending ? "Descending" : "Ascending";
  byId("direction").setAttribute("aria-pressed", String(state.descending));
  for (const box of byId("statuses").querySelectorAll("input")) box.checked = !state.hidden.includes(box.value);
}

/** @type {(id: typeof TEXTS[number]) => Partial<typeof state>} */
const changeBy = (id) => ({ [id]: byId(id).value, ...(id === "sort" ? { descending: startsDescending(byId(id).value) } : {}) });

function startControls() {
  for (const id of TEXTS) byId(id).addEventListener("input", () => change(changeBy(id), byId(id).tagName === "SELECT" ? "" : id));
  for (const [id, otherwise] of /** @type {const} */ ([["low", 0], ["high", 1]])) {
    byId(id).addEventListener("input", () => {
      const value = byId(id).value.trim();
      if (value === "" || Number.isFinite(Number(value))) {
        state[id] = value === "" ? otherwise : Number(value);
        if (value !== "") change({}, id);
      }
    });
    byId(id).addEventListener("change", () => change({}, id));
  }
  for (const id of /** @type {const} */ (["least", "most"])) {
    byId(id).addEventListener("input", () => change({ [id]: numberText(byId(id).value) || "" }, id));
  }
  byId("single").addEventListener("change", () => change({ single: byId("single").checked }));
  byId("direction").addEventListener("click", () => change({ descending: !state.descending }));
  for (const id of /** @type {const} */ (["reset", "reset-too"])) byId(id).addEventListener("click", () => change({ ...START, hidden: [] }));
  for (const id of /** @type {const} */ (["predicted", "explained", "label"])) startChoices(id);
}

/**
 * The names that go with what is typed, the most frequent first: a list of all would be as long as the model has classes.
 * @param {"predicted" | "explained" | "label"} id
 */
function startChoices(id) {
  const counts = id === "explained" ? tally((row) => rows.class_name[row], rows.class_name.keys()) : totals[id];
  const ordered = common(counts);
  const offer = () => {
    const sought = byId(id).value.trim().toLowerCase();
    const fitting = ordered.filter(([key]) => foldedWords[key].includes(sought)).slice(0, MOST_CHOICES);
    byId(`${id}-list`).replaceChildren(
      ...fitting.map(([key, count]) => {
        const choice = element("option", "", String(count));
        choice.value = word(key);
        return choice;
      }),
    );
  };
  byId(id).addEventListener("input", offer);
  byId(id).addEventListener("focus", offer);
}

function fillChoices() {
  /** @type {<T extends string | number>(id: "layer" | "method" | "stage", values: T[], text: (value: T) => string) => void} */
  const choose = (id, values, text) => {
    for (const value of new Set(values)) {
      const choice = element("option", "", text(value));
      choice.value = String(value);
      byId(id).append(choice);
    }
  };
  choose("layer", rows.layer, word);
  choose("method", rows.method, word);
  choose("stage", failures.stage, (stage) => stage);
  const group = element("optgroup");
  group.label = "Metrics";
  for (const name of Object.keys(data.metrics)) {
    for (const [parent, value] of /** @type {[HTMLElement, string][]} */ ([[byId("metric"), name], [group, METRIC + name]])) {
      const choice = element("option", "", name);
      choice.value = value;
      parent.append(choice);
    }
  }
  if (group.childElementCount) byId("sort").append(group);
  const counts = tally(statusOf, everything);
  for (const status of ["ok", "empty", "nonfinite", FAILED]) {
    const count = counts.get(status);
    if (!count) continue;
    const label = element("label");
    const box = element("input");
    box.type = "checkbox";
    box.value = status;
    box.addEventListener("change", () => {
      const others = state.hidden.filter((other) => other !== status);
      change({ hidden: box.checked ? others : [...others, status] });
    });
    label.append(box, element("span", "", `${status} (${count.toLocaleString("en")})`));
    byId("statuses").append(label);
  }
}

function showWhatThereIs() {
  /** @type {Record<string, boolean>} */
  const there = {
    labels: totals.label.size > 0,
    explained: rows.class_name.some((name, row) => name !== images.predicted[rows.image[row]]),
    layers: many.layer,
    methods: many.method,
    failures: failures.image.length > 0,
    metrics: Object.keys(data.metrics).length > 0,
  };
  const needing = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-needs]"));
  for (const needy of needing) needy.hidden = !there[needy.dataset.needs || ""];
  byId("single-box").hidden = !severalRows;
  byId("statistics-note").hidden = data.maps !== null;
  for (const choice of byId("sort").options) {
    if (["entropy", "border"].includes(choice.value)) choice.disabled = data.maps === null;
    if (choice.value === "wrong") choice.hidden = choice.disabled = !there.labels;
  }
  const parts = [counted(images.name.length - failures.image.length, "image"), counted(rowCount, "map")];
  if (failures.image.length) parts.push(counted(failures.image.length, "failure"));
  byId("summary").textContent = parts.join(", ") + ".";
  if (isTouched()) byId("grid").setAttribute("aria-label", "Pictures; tap one to open it");
}

if (data === NO_DATA) {
  byId("broken").hidden = false;
} else {
  fillChoices();
  showWhatThereIs();
  startControls();
  startView();
  startGrid({ fill: drawCard, least: cardWidth, shape: 0.75, onOpen: openView });
  startPanel();
  startAddress(addressFields(), follow);
  follow();
}
