"use strict";
// What every page needs: its elements, and numbers as people read them.

const byId = (id) => document.getElementById(id);
const percent = (value) => (value === null || value === undefined ? "" : (100 * value).toFixed(value < 0.1 ? 1 : 0) + " %");
const plain = (value) => (value === null || value === undefined ? "" : String(Number(value.toPrecision(4))));
const isTouched = () => window.matchMedia("(pointer: coarse)").matches;
const counted = (number, noun) => number.toLocaleString("en") + " " + noun + (number === 1 ? "" : "s");

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// A path whose end stays in sight.
function pathLine(name) {
  const line = element("span", "path");
  line.append(element("bdi", "", name));
  line.title = name;
  return line;
}

// A picture, or a word where it is not there.
function pictureOf(url, otherwise) {
  const picture = new Image();
  picture.decoding = "async";
  picture.alt = "";
  picture.addEventListener("error", () => picture.replaceWith(element("p", "", otherwise)));
  picture.src = url;
  return picture;
}
