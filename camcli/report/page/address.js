"use strict";
// What is asked for, in the page's address (#search=cat&sort=wrong): a copied address shows the same, back and forward work.
// A page has a state {open, panel, ...}, update() and followOpened(). Whatever an address says is checked; what means nothing here is ignored.

/**
 * A field of the address: read() takes its text, or null where the address does not have it; write() gives the text, or null for none.
 * @typedef {{read: (text: string | null) => void, write: () => string | null}} AddressField
 */

const LONGEST_PART = 8000;
const PAUSE = 400; // milliseconds; browsers refuse to rewrite an address more often than about three times a second

const address = {
  /** @type {Record<string, AddressField>} */
  fields: {},
  follow: () => {},
  kind: "",
  text: "",
  timer: 0,
  leaving: 0,
};

/**
 * A field of the address that stands for holder[key]. parse: text -> value, undefined for a text that means nothing.
 * @template {object} H
 * @template {keyof H} K
 * @param {H} holder
 * @param {K} key
 * @param {{start: H[K], parse?: (text: string) => H[K] | undefined, format?: (value: H[K]) => string}} how
 * @returns {AddressField}
 */
function part(holder, key, { start, parse = (text) => /** @type {any} */ (text), format = String }) {
  return {
    read(text) {
      const value = text === null ? undefined : parse(text);
      holder[key] = value === undefined ? start : value;
    },
    write: () => (holder[key] === start ? null : format(holder[key])),
  };
}

/** @type {<T extends string>(values: readonly T[]) => (text: string) => T | undefined} */
const oneOf = (values) => (text) => values.find((value) => value === text);
/** @type {(text: string) => true | undefined} */
const isSet = (text) => (text === "1" ? true : undefined);
/** @type {<K extends string>(holder: Record<K, boolean>, key: K) => AddressField} */
const flag = (holder, key) => part(holder, key, { start: false, parse: isSet, format: () => "1" });
/** @type {(low: number, high: number) => (text: string) => number | undefined} */
const numberIn = (low, high) => (text) => {
  const value = text.trim() === "" ? NaN : Number(text);
  return value >= low && value <= high ? value : undefined;
};

function addressText() {
  const parts = new URLSearchParams();
  for (const [key, field] of Object.entries(address.fields)) {
    const text = field.write();
    if (text !== null) parts.set(key, text);
  }
  return parts.toString();
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const [key, field] of Object.entries(address.fields)) {
    const text = parts.get(key);
    field.read(text === null || text.length > LONGEST_PART ? null : text);
  }
  address.text = addressText();
  address.kind = "";
}

/**
 * @param {"pushState" | "replaceState"} how
 * @param {{opened?: boolean} | null} mark
 */
function putAddress(how, mark) {
  clearTimeout(address.timer);
  address.timer = 0;
  try {
    history[how](mark, "", location.href.split("#")[0] + (address.text && "#" + address.text));
  } catch {
    // too often, or in a frame that has no address of its own: the page works without
  }
}

/**
 * After the state has changed. Changes of one kind in a row, as by typing, are one step back.
 * @param {string} kind
 * @param {boolean} [opened]
 */
function writeAddress(kind, opened) {
  const text = addressText();
  if (text === address.text) return;
  const isStep = kind !== address.kind;
  if (isStep && address.timer) putAddress("replaceState", history.state);
  address.text = text;
  address.kind = kind;
  if (address.leaving) return;
  if (isStep) putAddress("pushState", opened ? { opened } : null);
  else if (!address.timer) address.timer = setTimeout(() => putAddress("replaceState", history.state), PAUSE);
}

// What was opened is closed: one step back where opening it was a step, so that back does not open it again.
function leaveOpened() {
  if (!history.state || !history.state.opened) return writeAddress("");
  if (address.timer) putAddress("replaceState", history.state);
  address.text = addressText();
  address.kind = "";
  address.leaving = setTimeout(arrive, 1000); // should the browser not go back
  history.back();
}

function arrive() {
  clearTimeout(address.leaving);
  address.leaving = 0;
  putAddress("replaceState", history.state);
}

function goneTo() {
  if (address.leaving) return arrive();
  clearTimeout(address.timer);
  address.timer = 0;
  if (location.hash && !location.hash.includes("=")) return putAddress("replaceState", null); // a link within the page
  readAddress();
  address.follow();
}

/**
 * @param {Record<string, AddressField>} fields
 * @param {() => void} follow shows what the fields say now
 */
function startAddress(fields, follow) {
  Object.assign(address, { fields, follow });
  readAddress();
  window.addEventListener("popstate", goneTo);
}

// The panel beside the cards: open where there is room for it, unless the address says otherwise.
const isPanelOpen = () => window.matchMedia("(min-width: 851px)").matches;

function startPanel() {
  byId("panel").addEventListener("toggle", () => {
    const open = byId("panel").open;
    if (open === (state.panel === null ? isPanelOpen() : state.panel === "open")) return;
    state.panel = open === isPanelOpen() ? null : open ? "open" : "closed";
    writeAddress("panel");
  });
}

// Show what the address says: filters and order, then what is open.
function follow() {
  byId("panel").open = state.panel === null ? isPanelOpen() : state.panel === "open";
  update();
  followOpened();
}
