// Both maps: how they share the stage, move together, and what each of them shows.

import { Pane } from "fctl/pane.js";
import { change, onChange, state } from "fctl/state.js";

const stage = document.getElementById("stage");
const left = document.getElementById("left");
const divider = document.getElementById("divider");
const tags = { left: document.getElementById("tag-left"), right: document.getElementById("tag-right") };

/** Makes the maps; the left one when it is first wanted. */
export function makePanes(view, onPane) {
  const panes = { right: new Pane("right", view, state.camera), left: null };
  const added = [panes.right];

  function leftPane() {
    if (!panes.left) {
      const map = panes.right.map;
      panes.left = new Pane("left", view, { ...map.getCenter(), zoom: map.getZoom() });
      follow(panes.right.map, panes.left.map);
      follow(panes.left.map, panes.right.map);
      added.push(panes.left);
      onPane(panes.left);
      panes.left.draw(state.polygon, state.polygon.length > 2);
    }
    return panes.left;
  }

  function update() {
    const two = state.mode !== "overlay";
    const turned = stage.dataset.mode !== state.mode;
    stage.dataset.mode = state.mode;
    left.hidden = tags.left.hidden = tags.right.hidden = !two;
    divider.hidden = state.mode !== "swipe";
    if (turned) for (const pane of added) pane.map.resize();
    const opacity = state.hidden ? 0 : state.opacity / 100;
    panes.right.show({ image: state.image, over: state.right, opacity, off: state.off });
    if (!two) return;
    if (turned) leftPane().map.jumpTo({ center: panes.right.map.getCenter(), zoom: panes.right.map.getZoom() });
    leftPane().show({ image: state.image, over: state.left, opacity, off: state.off });
    const title = (name) => view.layers.find((layer) => layer.name === name)?.title ?? "";
    tags.left.textContent = title(state.left);
    tags.right.textContent = title(state.right);
    moveDivider();
  }

  panes.right.map.on("moveend", () => {
    const { lng, lat } = panes.right.map.getCenter();
    change({ camera: { lng, lat, zoom: panes.right.map.getZoom() } });
  });
  onChange((_, fields) => {
    if (Object.keys(fields).some((field) => field !== "camera")) update();
  });
  offerDivider();
  onPane(panes.right);
  update();
  return added;
}

/** Moves one map with another; a map that is moved so does not move the other back. */
function follow(leader, follower) {
  leader.on("move", (event) => {
    if (event.follows) return;
    follower.jumpTo({ center: leader.getCenter(), zoom: leader.getZoom() }, { follows: true });
  });
}

function moveDivider() {
  const place = state.divider;
  stage.style.setProperty("--divider", `${place}%`);
  divider.setAttribute("aria-valuenow", Math.round(place));
}

function offerDivider() {
  const place = (event) => {
    const box = stage.getBoundingClientRect();
    change({ divider: Math.min(Math.max(((event.clientX - box.left) / box.width) * 100, 0), 100) });
  };
  divider.addEventListener("pointerdown", (event) => {
    divider.setPointerCapture(event.pointerId);
    event.preventDefault();
    divider.focus({ preventScroll: true });
    divider.addEventListener("pointermove", place);
    divider.addEventListener("lostpointercapture", () => divider.removeEventListener("pointermove", place), { once: true });
  });
  divider.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -2, ArrowRight: 2, Home: -100, End: 100 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    nudgeDivider(step);
  });
}

/** Moves the divider by so many hundredths of the stage. */
export function nudgeDivider(step) {
  change({ divider: Math.min(Math.max(state.divider + step, 0), 100) });
}
