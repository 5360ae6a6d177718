// What keys do, beside those of MapLibre: arrows move the map, + and - zoom.

import { fold } from "fctl/panel.js";
import { nudgeDivider } from "fctl/panes.js";
import { closeTold } from "fctl/popup.js";
import { change, state } from "fctl/state.js";

/** Offers keys everywhere but where text is typed. */
export function offerKeys(view, panes, drawing) {
  const dialog = document.getElementById("keys");
  document.getElementById("help").addEventListener("click", () => dialog.showModal());
  const next = (step) => {
    const names = view.layers.map((layer) => layer.name);
    change({ right: names.at((names.indexOf(state.right) + step) % names.length), hidden: false });
  };
  const opaque = (step) => change({ opacity: Math.min(Math.max(state.opacity + step, 0), 100), hidden: false });
  const keys = {
    f: () => panes[0].fit(), 1: () => change({ mode: "overlay" }), 2: () => change({ mode: "swipe" }),
    3: () => change({ mode: "side" }), ",": () => nudgeDivider(-5), ".": () => nudgeDivider(5),
    m: () => change({ hidden: !state.hidden }), i: () => change({ image: !state.image }), "[": () => opaque(-10),
    "]": () => opaque(10), n: () => next(1), N: () => next(-1), p: () => drawing.start(), l: fold, "?": () => dialog.showModal(),
    Enter: () => drawing.finish(), Backspace: () => drawing.back(),
    Escape: () => (drawing.active ? drawing.clear() : closeTold()),
  };
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=checkbox]):not([type=range]), select, textarea, dialog[open]");
    const pressing = event.key === "Enter" && event.target.closest?.("button");
    if (event.ctrlKey || event.metaKey || event.altKey || typing || pressing || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
}
