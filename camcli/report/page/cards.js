"use strict";
// The cards of a run: a map, or an image that could not be explained.

/** @type {(room: number) => number} */
const cardWidth = (room) => (room < 520 ? 150 : 190);

/**
 * @param {HTMLElement} card
 * @param {number} item
 */
function drawCard(card, item) {
  if (isFailure(item)) fillFailure(card, item - rowCount);
  else fillCard(card, item);
  card.append(pathLine(images.name[imageOf(item)]));
}

/**
 * @param {HTMLElement} card
 * @param {number} row
 */
function fillCard(card, row) {
  const image = rows.image[row];
  card.append(thumbnail(row));
  const heading = element("span", "class");
  heading.append(element("b", "", word(rows.class_name[row])), element("i", "", percent(rows.probability[row])));
  const under = [word(rows.layer[row])];
  if (many.method) under.push(word(rows.method[row]));
  if (images.correct[image] === 0) {
    card.classList.add("wrong");
    under.unshift("wrong");
  }
  card.append(heading, element("span", "under", under.join(" · ")));
}

/**
 * @param {HTMLElement} card
 * @param {number} failure
 */
function fillFailure(card, failure) {
  card.classList.add("failed");
  const thumb = element("span", "thumb");
  thumb.append(element("p", "", failures.error[failure]));
  card.append(thumb, element("span", "class", "failed"), element("span", "under", "at stage " + failures.stage[failure]));
}

/**
 * The small picture of a row, or why there is none.
 * @param {number} row
 */
function thumbnail(row) {
  const box = element("span", "thumb");
  const url = thumbUrl(row);
  if (!url) {
    const status = word(rows.status[row]);
    const why = status === "ok" ? "no overlay was asked for" : "not painted: the map is " + (status === "empty" ? "empty" : "not finite");
    box.append(element("p", "", why));
    return box;
  }
  box.append(pictureOf(url, "its thumbnail is not there"));
  return box;
}
