"use strict";
// The cards: only those in sight, and a few around them, are in the page.

const TEXT_HEIGHT = 76;
const GAP = 12;
const BEYOND = 2;
const TALLEST = 15e6; // pixels: no browser lays out an element that is much taller

// every: what was asked for; items: as many of it as the page has room for.
const grid = {
  /** @type {number[]} */
  every: [],
  /** @type {number[]} */
  items: [],
  active: 0,
  /** @type {Map<number, HTMLButtonElement>} */
  cards: new Map(),
  columns: 1,
  width: 0,
  height: 0,
  /** @type {(card: HTMLElement, item: number) => void} */
  fill: () => {},
  /** @type {(room: number) => number} */
  least: (room) => room,
  shape: 0,
};
const pageHeader = /** @type {HTMLElement} */ (document.querySelector("header"));
const pageTools = /** @type {HTMLElement} */ (document.querySelector("header .tools"));

function measureGrid() {
  const room = byId("grid").clientWidth;
  grid.columns = Math.max(1, Math.floor((room + GAP) / (grid.least(room) + GAP)));
  grid.width = (room - GAP * (grid.columns - 1)) / grid.columns;
  grid.height = Math.round(grid.width * grid.shape) + TEXT_HEIGHT;
  const most = Math.floor(TALLEST / (grid.height + GAP)) * grid.columns;
  grid.items = grid.every.slice(0, most);
  byId("grid").style.height = Math.ceil(grid.items.length / grid.columns) * (grid.height + GAP) + "px";
  byId("rest").hidden = grid.every.length <= most;
  byId("rest").textContent = `These are the first ${most.toLocaleString("en")}. Search or filter to reach the others.`;
}

/** @param {number[]} items */
function showItems(items) {
  grid.every = items;
  grid.active = 0;
  for (const card of grid.cards.values()) card.remove();
  grid.cards.clear();
  measureGrid();
  drawGrid();
}

function drawGrid() {
  const top = byId("grid").getBoundingClientRect().top;
  const step = grid.height + GAP;
  const first = Math.max(0, Math.floor(-top / step) - BEYOND) * grid.columns;
  const end = Math.min(grid.items.length, (Math.ceil((window.innerHeight - top) / step) + BEYOND) * grid.columns);
  for (const [place, card] of grid.cards) {
    if ((place < first || place >= end) && place !== grid.active) {
      card.remove();
      grid.cards.delete(place);
    }
  }
  for (let place = first; place < end; place++) if (!grid.cards.has(place)) addCard(place);
  if (grid.items.length && !grid.cards.has(grid.active)) addCard(grid.active);
  for (const [place, card] of grid.cards) placeCard(place, card);
}

/**
 * @param {number} place
 * @param {HTMLElement} card
 */
function placeCard(place, card) {
  const column = place % grid.columns;
  const row = Math.floor(place / grid.columns);
  card.style.width = grid.width + "px";
  card.style.height = grid.height + "px";
  card.style.transform = `translate(${column * (grid.width + GAP)}px, ${row * (grid.height + GAP)}px)`;
  card.tabIndex = place === grid.active ? 0 : -1;
}

/** @param {number} place */
function addCard(place) {
  const item = grid.items[place];
  const card = element("button", "card");
  card.type = "button";
  card.dataset.place = String(place);
  card.dataset.item = String(item);
  grid.fill(card, item);
  grid.cards.set(place, card);
  byId("grid").append(card);
}

/** @param {number} place */
function scrollToPlace(place) {
  const box = byId("grid").getBoundingClientRect();
  const top = box.top + Math.floor(place / grid.columns) * (grid.height + GAP);
  const header = getComputedStyle(pageHeader).position === "sticky" ? headerHeight() : 0;
  if (top < header + GAP) window.scrollBy(0, top - header - GAP);
  else if (top + grid.height > window.innerHeight - GAP) window.scrollBy(0, top + grid.height - window.innerHeight + GAP);
}

/** @param {number} place */
function focusPlace(place) {
  if (!grid.items.length) return;
  grid.active = Math.min(Math.max(place, 0), grid.items.length - 1);
  scrollToPlace(grid.active);
  drawGrid();
  grid.cards.get(grid.active)?.focus({ preventScroll: true });
}

/** @param {KeyboardEvent} event */
function gridKey(event) {
  const page = Math.max(1, Math.floor(window.innerHeight / (grid.height + GAP))) * grid.columns;
  /** @type {Record<string, number>} */
  const steps = {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: grid.columns, ArrowUp: -grid.columns, PageDown: page, PageUp: -page,
    Home: -grid.items.length, End: grid.items.length,
  };
  const step = steps[event.key];
  if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  focusPlace(grid.active + step);
}

// The lower part of the header stays in sight; its titles, as high as this, scroll away.
const titlesHeight = () => Math.round(pageTools.getBoundingClientRect().top - pageHeader.getBoundingClientRect().top) - GAP;
const headerHeight = () => pageHeader.offsetHeight - titlesHeight();

/**
 * How a page's grid is made: fill(card, item) draws a card, least(room) is the width it wants, shape its picture's height by width.
 * @param {Pick<typeof grid, "fill" | "least" | "shape"> & {onOpen: (place: number) => void}} how
 */
function startGrid({ fill, least, shape, onOpen }) {
  Object.assign(grid, { fill, least, shape });
  const box = byId("grid");
  let waiting = false;
  /** @type {(what: () => void) => () => void} */
  const later = (what) => () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      what();
    });
  };
  window.addEventListener("scroll", later(drawGrid), { passive: true });
  const observer = new ResizeObserver(() => {
    document.documentElement.style.setProperty("--titles", titlesHeight() + "px");
    document.documentElement.style.setProperty("--header", headerHeight() + "px");
    measureGrid();
    drawGrid();
  });
  for (const measured of [box, pageHeader]) observer.observe(measured);
  box.addEventListener("keydown", gridKey);
  box.addEventListener("focus", () => focusPlace(grid.active));
  box.addEventListener("click", (event) => {
    const card = /** @type {Element} */ (event.target).closest(".card");
    if (!(card instanceof HTMLElement)) return;
    grid.active = Number(card.dataset.place);
    drawGrid();
    onOpen(grid.active);
  });
}
