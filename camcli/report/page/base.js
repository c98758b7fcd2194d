"use strict";
// What every page needs: its elements, and numbers as people read them.

/** @type {<K extends keyof PageElements>(id: K) => PageElements[K]} */
const byId = (id) => /** @type {any} */ (document.getElementById(id));
/** @type {(value: Cell | undefined) => string} */
const percent = (value) => (value === null || value === undefined ? "" : (100 * value).toFixed(value < 0.1 ? 1 : 0) + " %");
/** @type {(value: Cell | undefined) => string} */
const plain = (value) => (value === null || value === undefined ? "" : String(Number(value.toPrecision(4))));
const isTouched = () => window.matchMedia("(pointer: coarse)").matches;
/** @type {(number: number, noun: string) => string} */
const counted = (number, noun) => number.toLocaleString("en") + " " + noun + (number === 1 ? "" : "s");

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {string} [className]
 * @param {string} [text]
 */
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * A path whose end stays in sight.
 * @param {string} name
 */
function pathLine(name) {
  const line = element("span", "path");
  line.append(element("bdi", "", name));
  line.title = name;
  return line;
}

/**
 * A picture, or a word where it is not there.
 * @param {string} url
 * @param {string} otherwise
 */
function pictureOf(url, otherwise) {
  const picture = new Image();
  picture.decoding = "async";
  picture.alt = "";
  picture.addEventListener("error", () => picture.replaceWith(element("p", "", otherwise)));
  picture.src = url;
  return picture;
}

/**
 * Items by their keys, all numbers or all texts. Those without a key come last in both directions; equal ones keep their order.
 * @param {number[]} items
 * @param {(item: number) => number | string | null | undefined} keyOf
 * @param {boolean} descending
 */
function sortedBy(items, keyOf, descending) {
  const sign = descending ? -1 : 1;
  /** @type {[any, number][]} */
  const keyed = items.map((item) => [keyOf(item), item]);
  const valued = keyed.filter(([key]) => key !== null && key !== undefined);
  valued.sort(([a], [b]) => (a < b ? -sign : a > b ? sign : 0));
  return [...valued, ...keyed.filter(([key]) => key === null || key === undefined)].map(([, item]) => item);
}
