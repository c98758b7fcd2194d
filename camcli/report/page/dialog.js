"use strict";
// The large view as a dialog that goes from one item of the grid to the next. A page has a view {place, turn} and openView(place).

/** @type {Record<string, number>} */
const STEPS = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };

/** @param {number} step */
function go(step) {
  const place = view.place + step;
  if (place >= 0 && place < grid.items.length) openView(place);
}

/**
 * @param {(event: KeyboardEvent) => boolean} ownKey whether the page itself has taken the key
 * @param {() => void} lay called when the picture's frame has another size
 */
function startDialog(ownKey, lay) {
  const dialog = byId("view");
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || ownKey(event)) return;
    const step = STEPS[event.key];
    if (step === undefined) return;
    event.preventDefault();
    go(step);
  });
  dialog.addEventListener("close", () => {
    view.turn += 1;
    focusPlace(view.place);
    if (state.open === "") return; // closed by the address
    state.open = "";
    leaveOpened();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  byId("close").addEventListener("click", () => dialog.close());
  byId("previous").addEventListener("click", () => go(-1));
  byId("next").addEventListener("click", () => go(1));
  new ResizeObserver(lay).observe(byId("frame"));
  startSwipes(byId("frame"));
}

/**
 * A quick stroke to the left or the right with one finger; a slow one reads values.
 * @param {HTMLElement} frame
 */
function startSwipes(frame) {
  /** @type {{x: number, y: number, at: number} | null} */
  let from = null;
  frame.addEventListener("pointerdown", (event) => {
    from = event.pointerType === "touch" && event.isPrimary ? { x: event.clientX, y: event.clientY, at: event.timeStamp } : null;
  });
  frame.addEventListener("pointercancel", () => (from = null));
  frame.addEventListener("pointerup", (event) => {
    if (!from || !event.isPrimary) return;
    const [across, down] = [event.clientX - from.x, event.clientY - from.y];
    if (Math.abs(across) > 48 && Math.abs(across) > 2 * Math.abs(down) && event.timeStamp - from.at < 500) go(across < 0 ? 1 : -1);
    from = null;
  });
}

function showDialog() {
  if (byId("view").open) return;
  byId("view").showModal();
  byId("view").focus();
}
