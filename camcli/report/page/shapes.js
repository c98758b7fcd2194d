"use strict";
// What charts are made of: shapes, parts that can be pressed, counts.

const SVG = "http://www.w3.org/2000/svg";

/**
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string | number>} attributes
 * @param {string} [text]
 */
function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * How often each key comes; null and undefined are no keys.
 * @template A, K
 * @param {(each: A) => K | null | undefined} keyOf
 * @param {Iterable<A>} among
 */
function tally(keyOf, among) {
  /** @type {Map<K, number>} */
  const found = new Map();
  for (const each of among) {
    const key = keyOf(each);
    if (key !== null && key !== undefined) found.set(key, (found.get(key) || 0) + 1);
  }
  return found;
}

/**
 * @param {SVGElement} group
 * @param {string} name
 * @param {boolean} pressed
 * @param {() => void} act
 */
function pressable(group, name, pressed, act) {
  group.setAttribute("role", "button");
  group.setAttribute("tabindex", "0");
  group.setAttribute("aria-label", name);
  group.setAttribute("aria-pressed", String(pressed));
  group.addEventListener("click", act);
  group.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act();
  });
}

/**
 * Bars of bins: pale for all, strong for what the filters let through.
 * @param {{all: Map<number, number>, now: Map<number, number>, bins: number, label: string}} counts
 * @param {(bin: number) => {name: string, pressed: boolean, act: () => void}} buttonOf
 */
function histogram({ all, now, bins, label }, buttonOf) {
  const most = Math.max(1, ...all.values());
  const width = 280 / bins;
  const svg = shape("svg", { viewBox: "0 0 280 112", role: "group", "aria-label": label });
  /** @type {(count: number, kind: string) => SVGElement} */
  const bar = (count, kind) => shape("rect", { x: 2, y: 90 - (84 * count) / most, width: width - 4, height: (84 * count) / most, class: kind });
  for (let bin = 0; bin < bins; bin++) {
    const [shown, whole] = [now.get(bin) || 0, all.get(bin) || 0];
    const { name, pressed, act } = buttonOf(bin);
    const group = shape("g", { transform: `translate(${bin * width} 0)`, "data-bin": bin });
    group.append(bar(whole, "all"), bar(shown, "now"), shape("rect", { x: 0, y: 2, width, height: 92, rx: 3, class: "hit" }));
    pressable(group, `${name}: ${shown} of ${whole}`, pressed, act);
    svg.append(group);
  }
  return svg;
}

/**
 * Draw a chart again; the focus stays on the same part of it.
 * @param {keyof PageElements} id
 * @param {Element[]} chart
 */
function replaceChart(id, chart) {
  const box = byId(id);
  const parts = () => [.../** @type {NodeListOf<HTMLElement>} */ (box.querySelectorAll('[role="button"], button'))];
  const place = parts().findIndex((part) => part === document.activeElement);
  box.replaceChildren(...chart);
  if (place >= 0 && parts()[place]) parts()[place].focus();
}
