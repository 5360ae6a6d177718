// Puts the page together.

import { Drawing } from "fctl/draw.js";
import { offerKeys } from "fctl/keys.js";
import { makePanel, showCounts } from "fctl/panel.js";
import { makePanes } from "fctl/panes.js";
import { tell } from "fctl/popup.js";
import { followRun } from "fctl/run.js";
import { offerTiles, readCounts, readView } from "fctl/source.js";
import { onChange, readLink, state } from "fctl/state.js";

const by = (id) => document.getElementById(id);

async function start() {
  const view = await readView();
  const names = view.layers.map((layer) => layer.name);
  Object.assign(state, { left: names.includes("other") ? "other" : names[0] }, readLink(view));
  if (matchMedia("(max-width: 640px)").matches) by("panel").classList.add("folded");
  offerTiles(view, () => state.off);
  makePanel(view);
  let drawing = null;
  const panes = makePanes(view, (pane) => offerPane(view, pane, () => drawing));
  drawing = new Drawing(view, panes);
  offerKeys(view, panes, drawing);
  by("fit").addEventListener("click", () => panes[0].fit());
  by("copy").addEventListener("click", copyLink);
  panes[0].map.once("idle", () => document.body.classList.add("ready"));
  if (view.running) followRun(view, panes);
  readCounts().then((counts) => showCounts(view, counts), (error) => showCounts(view, { error: error.message }));
}

/** What every map answers to. */
function offerPane(view, pane, drawing) {
  const map = pane.map;
  map.addControl(new maplibregl.NavigationControl({ showCompass: false }), "top-right");
  if (view.placed) map.addControl(new maplibregl.ScaleControl({ maxWidth: 120 }), "bottom-right");
  map.on("click", (event) => {
    if (drawing()?.active) drawing().add(map, event);
    else tell(view, map, event.lngLat);
  });
  map.on("dblclick", () => drawing()?.active && drawing().finish());
  map.on("mousemove", (event) => {
    drawing()?.hover(event);
    by("status").textContent = place(view, event.lngLat);
  });
  map.on("error", ({ error }) => {
    if (error?.name !== "AbortError") hint(error?.message ?? "something went wrong");
  });
  map.on("zoomend", () => hintOfZoom(view, map));
  hintOfZoom(view, map);
  onChange(() => hintOfZoom(view, map));
}

/** Where the pointer is, in the words of the raster. */
function place(view, { lng, lat }) {
  if (view.placed) return `${lat.toFixed(6)}, ${lng.toFixed(6)}`;
  const plane = (degrees) => Math.asinh(Math.tan((degrees * Math.PI) / 180));
  const [west, south, east, north] = view.bounds;
  const column = ((lng - west) / (east - west)) * view.width;
  const row = ((plane(north) - plane(lat)) / (plane(north) - plane(south))) * view.height;
  return `row ${Math.floor(row)}, column ${Math.floor(column)}`;
}

/** Says so where a layer has no tiles at this zoom, for its raster has no overviews. */
function hintOfZoom(view, map) {
  const shown = [state.right, state.mode === "overlay" ? "" : state.left, state.image ? "image" : ""];
  const far = view.layers.filter((layer) => shown.includes(layer.name) && map.getZoom() + 1 < layer.minzoom);
  if (far.length) hint(`Zoom in to see: ${far.map((layer) => layer.title).join(", ")}. Without overviews (gdaladdo) the whole raster would be read.`);
  else if (by("hint").textContent.startsWith("Zoom in")) by("hint").hidden = true;
}

function hint(text) {
  by("hint").textContent = text;
  by("hint").hidden = false;
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    hint("The link is copied.");
  } catch {
    hint("The link is in the address bar.");
  }
  setTimeout(() => (by("hint").hidden = true), 2000);
}

start().catch((error) => hint(error.message));
