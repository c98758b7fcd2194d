"use strict";
// Raw maps, from script files that are loaded when they are needed, and which part of a picture each covers.

const chunks = new Map();

function camcliMaps(number, maps) {
  chunks.get(number).arrived(maps);
}

function chunkOf(row) {
  let low = 0;
  let high = data.maps.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (data.maps[middle] <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}

// The map of a row as {height, width, values}; null where there is none.
async function loadMap(row) {
  if (!data.maps || !data.maps.length) return null;
  const number = chunkOf(row);
  if (!chunks.has(number)) {
    const chunk = {};
    chunk.maps = new Promise((resolve) => {
      chunk.arrived = resolve;
      const script = document.createElement("script");
      script.addEventListener("error", () => resolve([]));
      script.src = `report/maps/${number}.js`;
      document.head.append(script);
    });
    chunks.set(number, chunk);
  }
  const found = (await chunks.get(number).maps)[row - data.maps[number]];
  if (!found) return null;
  const [height, width, text] = found;
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return { height, width, values: Array.from({ length: height * width }, (_, k) => view.getFloat32(4 * k, true)) };
}

// Height in pixels of the photo in an overlay of that size; the rest is its legend and its caption.
function photoHeight(width, height) {
  if (data.settings.caption) return Math.min(height, Math.round(width * photoShape(view.item)));
  if (!data.settings.legend) return height;
  for (let inner = height - 16; inner > 0; inner--) {
    const bar = Math.max(16, Math.floor(Math.min(inner, width) / 18));
    if (inner + bar === height) return inner;
    if (inner + bar < height) break;
  }
  return height;
}

// Height of the photo of a row by the width of its overlay. A caption is as high as its text needs, but what the network saw is the
// middle of the photo.
function photoShape(row) {
  const halves = data.settings.style === "side-by-side" ? 2 : 1;
  return (2 * rows.box_y[row] + rows.box_h[row]) / (2 * rows.box_x[row] + rows.box_w[row]) / halves;
}

// What the map covers, in pixels of the photo: beyond its edges where the network's input was padded. null: not known.
function mapBox(row, width, height) {
  const wanted = data.preprocess;
  const pads = data.settings.fit === "pad" || (data.settings.fit === "crop" && (!wanted || wanted.contains));
  if (!pads) return { x: rows.box_x[row], y: rows.box_y[row], w: rows.box_w[row], h: rows.box_h[row] };
  if (!wanted) return data.settings.fit === "pad" ? null : { x: rows.box_x[row], y: rows.box_y[row], w: rows.box_w[row], h: rows.box_h[row] };
  const [high, wide] = data.settings.fit === "pad" ? wanted.crop : wanted.resize_to;
  const scale = Math.max(width / wide, height / high);
  const box = { w: wanted.crop[1] * scale, h: wanted.crop[0] * scale };
  return { x: (width - box.w) / 2, y: (height - box.h) / 2, ...box };
}
