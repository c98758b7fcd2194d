"use strict";
// The large view as a dialog that goes from one item of the grid to the next. A page has a view {place, turn} and openView(place).

function go(step) {
  const place = view.place + step;
  if (place >= 0 && place < grid.items.length) openView(place);
}

// ownKey(event): whether the page itself has taken the key. lay(): called when the picture's frame has another size.
function startDialog(ownKey, lay) {
  const dialog = byId("view");
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || ownKey(event)) return;
    const step = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    go(step);
  });
  dialog.addEventListener("close", () => {
    view.turn += 1;
    focusPlace(view.place);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  byId("close").addEventListener("click", () => dialog.close());
  byId("previous").addEventListener("click", () => go(-1));
  byId("next").addEventListener("click", () => go(1));
  new ResizeObserver(lay).observe(byId("frame"));
}
