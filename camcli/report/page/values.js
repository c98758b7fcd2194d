"use strict";
// Raw maps, from script files that are loaded when they are needed, and which part of a picture each covers.

/**
 * @typedef {{height: number, width: number, values: number[]}} RawMap
 * @typedef {{x: number, y: number, w: number, h: number}} Box
 * @typedef {{maps: Promise<StoredMap[]>, arrived: (maps: StoredMap[]) => void}} Chunk
 */

/** @type {Map<number, Chunk>} */
const chunks = new Map();

/**
 * Each script file of maps calls this.
 * @param {number} number
 * @param {StoredMap[]} maps
 */
function camcliMaps(number, maps) {
  chunks.get(number)?.arrived(maps);
}

/**
 * The number of the chunk that has the map of a row.
 * @param {number[]} starts
 * @param {number} row
 */
function chunkOf(starts, row) {
  let low = 0;
  let high = starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}

/**
 * @param {number} number
 * @returns {Chunk}
 */
function requestChunk(number) {
  /** @type {Chunk["arrived"]} */
  let arrived = () => {};
  /** @type {Chunk["maps"]} */
  const maps = new Promise((resolve) => (arrived = resolve));
  const script = document.createElement("script");
  script.addEventListener("error", () => arrived([]));
  script.src = `report/maps/${number}.js`;
  document.head.append(script);
  return { maps, arrived };
}

/**
 * The map of a row; null where there is none.
 * @param {number} row
 * @returns {Promise<RawMap | null>}
 */
async function loadMap(row) {
  if (!data.maps || !data.maps.length) return null;
  const number = chunkOf(data.maps, row);
  const chunk = chunks.get(number) || requestChunk(number);
  chunks.set(number, chunk);
  const found = (await chunk.maps)[row - data.maps[number]];
  if (!found) return null;
  const [height, width, text] = found;
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return { height, width, values: Array.from({ length: height * width }, (_, k) => view.getFloat32(4 * k, true)) };
}

/**
 * Height in pixels of the photo in an overlay of that size; the rest is its legend and its caption.
 * @param {number} width
 * @param {number} height
 */
function photoHeight(width, height) {
  const seen = rowBox(view.item);
  if (data.settings.caption) return seen ? Math.min(height, Math.round(width * photoShape(seen))) : height;
  if (!data.settings.legend) return height;
  for (let inner = height - 16; inner > 0; inner--) {
    const bar = Math.max(16, Math.floor(Math.min(inner, width) / 18));
    if (inner + bar === height) return inner;
    if (inner + bar < height) break;
  }
  return height;
}

/**
 * What the network saw of a photo, in its pixels. null: the table does not say it, or names no area.
 * @param {number} row
 * @returns {Box | null}
 */
function rowBox(row) {
  const [x, y, w, h] = [rows.box_x[row], rows.box_y[row], rows.box_w[row], rows.box_h[row]];
  if (x === null || y === null || w === null || h === null) return null;
  return w > 0 && h > 0 ? { x, y, w, h } : null;
}

/**
 * Height of a photo by the width of its overlay. A caption is as high as its text needs, but what the network saw is the middle of the
 * photo.
 * @param {Box} seen
 */
function photoShape(seen) {
  const halves = data.settings.style === "side-by-side" ? 2 : 1;
  return (2 * seen.y + seen.h) / (2 * seen.x + seen.w) / halves;
}

/**
 * What the map covers, in pixels of the photo: beyond its edges where the network's input was padded. null: not known.
 * @param {number} row
 * @param {number} width
 * @param {number} height
 * @returns {Box | null}
 */
function mapBox(row, width, height) {
  const wanted = data.preprocess;
  const pads = data.settings.fit === "pad" || (data.settings.fit === "crop" && (!wanted || wanted.contains));
  if (!pads) return rowBox(row);
  if (!wanted) return data.settings.fit === "pad" ? null : rowBox(row);
  const [high, wide] = data.settings.fit === "pad" ? wanted.crop : wanted.resize_to;
  const scale = Math.max(width / wide, height / high);
  const box = { w: wanted.crop[1] * scale, h: wanted.crop[0] * scale };
  return { x: (width - box.w) / 2, y: (height - box.h) / 2, ...box };
}
