// Where everything comes from: the server, or, in a page of one file, what lies in the page.

import { idAt, without } from "fctl/png.js";

const element = document.getElementById("content");
const content = element && JSON.parse(element.textContent);

/** Whether there is a server to ask. */
export const live = !content;

/** What is known of the rasters. */
export async function readView() {
  return content ? content.view : answer(await fetch("view.json"));
}

/** The classes of the whole mask, once they are counted. */
export async function readCounts() {
  return content ? content.counts : answer(await fetch("counts"));
}

/** What is known of a run that goes on. */
export async function readRun() {
  return answer(await fetch("run"));
}

/** What all rasters say of a place. */
export async function readPoint(view, lng, lat) {
  if (!content) return answer(await fetch(`point?lng=${lng}&lat=${lat}`));
  const layer = view.layers.find(({ name }) => name === "mask");
  const side = 2 ** layer.maxzoom;
  const x = ((lng + 180) / 360) * side;
  const y = ((1 - Math.asinh(Math.tan((lat * Math.PI) / 180)) / Math.PI) / 2) * side;
  const data = embedded(`mask/${layer.maxzoom}/${Math.floor(x)}/${Math.floor(y)}`);
  const id = data ? await idAt(data, Math.floor((x % 1) * 256), Math.floor((y % 1) * 256)) : 255;
  return { mask: id === 255 ? null : id };
}

/** The classes in a polygon, corners as [longitude, latitude]. */
export async function readAreas(polygon) {
  return answer(await fetch("areas", { method: "POST", body: JSON.stringify({ polygons: [polygon] }) }));
}

/** Lets MapLibre ask for tiles as fctl://NAME/Z/X/Y, with the classes left out that are switched off. */
export function offerTiles(view, off) {
  maplibregl.addProtocol("fctl", async ({ url }, { signal }) => {
    const path = url.slice("fctl://".length).split("?")[0];
    const layer = view.layers.find(({ name }) => name === path.split("/")[0]);
    const data = content ? embedded(path) : await fetched(`tiles/${path}?v=${layer.version}`, signal);
    return { data: data && layer.classes ? without(data, off()) : data };
  });
}

async function fetched(path, signal) {
  const response = await fetch(path, { signal });
  if (!response.ok) throw new Error((await response.json()).error);
  return response.arrayBuffer();
}

function embedded(path) {
  const text = content.tiles[path];
  return text ? Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer : null;
}

async function answer(response) {
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}
