// What is shown, in one object; the link in the address bar keeps it.

/** Decimal places of the degrees of polygons in a link: a tenth of a millimetre. */
export const PLACES = 9;

const MODES = ["overlay", "swipe", "side"];

export const state = {
  mode: "overlay", left: "", right: "mask", opacity: 60, image: true, off: new Set(), divider: 50,
  camera: null, polygon: [], hidden: false,
};

const listeners = new Set();

/** Calls a function after every change. */
export function onChange(listener) {
  listeners.add(listener);
}

/** Changes some fields, tells all listeners, and keeps the link. */
export function change(fields) {
  Object.assign(state, fields);
  for (const listener of listeners) listener(state, fields);
  keepLink();
}

/** Keeps the state in the address bar, without a step of the browser's history. */
export function keepLink() {
  const parts = new URLSearchParams();
  if (state.camera) {
    parts.set("at", `${state.camera.lat.toFixed(7)},${state.camera.lng.toFixed(7)}`);
    parts.set("zoom", state.camera.zoom.toFixed(2));
  }
  parts.set("mode", state.mode);
  if (state.left) parts.set("left", state.left);
  parts.set("show", state.right);
  parts.set("opacity", state.opacity);
  if (!state.image) parts.set("image", "off");
  if (state.off.size) parts.set("off", [...state.off].sort((a, b) => a - b).join(","));
  if (state.mode === "swipe") parts.set("divider", Math.round(state.divider));
  if (state.polygon.length) parts.set("area", state.polygon.map((corner) => corner.map((n) => n.toFixed(PLACES)).join(",")).join(";"));
  history.replaceState(null, "", `#${decodeURIComponent(parts.toString())}`);
}

/** Reads what a link says; what means nothing here is left out. */
export function readLink(view) {
  const parts = new URLSearchParams(location.hash.slice(1));
  const names = new Set(view.layers.map((layer) => layer.name));
  const named = (key) => (names.has(parts.get(key)) ? parts.get(key) : undefined);
  const number = (key, low, high) => {
    const found = Number(parts.get(key));
    return parts.has(key) && found >= low && found <= high ? found : undefined;
  };
  const fields = {
    mode: MODES.includes(parts.get("mode")) ? parts.get("mode") : undefined,
    left: named("left"), right: named("show"), opacity: number("opacity", 0, 100), divider: number("divider", 0, 100),
    image: parts.get("image") === "off" ? false : undefined,
    off: parts.has("off") ? new Set(parts.get("off").split(",").map(Number).filter((id) => view.classes[id])) : undefined,
    camera: camera(parts), polygon: polygon(parts.get("area")),
  };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

function camera(parts) {
  const [lat, lng] = (parts.get("at") ?? "").split(",").map(Number);
  const zoom = Number(parts.get("zoom"));
  return Math.abs(lat) < 86 && Math.abs(lng) <= 180 && zoom >= 0 && parts.has("zoom") ? { lat, lng, zoom } : undefined;
}

function polygon(text) {
  const corners = (text ?? "").split(";").map((corner) => corner.split(",").map(Number));
  const sound = corners.every(([lng, lat]) => Math.abs(lng) <= 180 && Math.abs(lat) <= 90);
  return sound && corners.length > 2 ? corners : undefined;
}
