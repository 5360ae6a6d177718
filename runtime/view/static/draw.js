// Drawing a polygon, and counting the classes in it.

import { showAreas } from "fctl/panel.js";
import { live, readAreas } from "fctl/source.js";
import { change, PLACES, state } from "fctl/state.js";

const NEAR = 14; // pixels from the first corner that close the polygon
const kept = (degrees) => Number(degrees.toFixed(PLACES)); // a link has the very polygon that was counted
const by = (id) => document.getElementById(id);

export class Drawing {
  #view;
  #panes;
  #corners = null; // of a polygon that is being drawn
  #asked = 0;

  constructor(view, panes) {
    this.#view = view;
    this.#panes = panes;
    by("measure").hidden = !live;
    by("draw").addEventListener("click", () => this.start());
    by("finish").addEventListener("click", () => this.finish());
    by("clear").addEventListener("click", () => this.clear());
    if (live && state.polygon.length) this.#count();
  }

  get active() {
    return this.#corners !== null;
  }

  /** Begins a polygon in place of the one before. */
  start() {
    if (!live) return;
    this.#corners = [];
    change({ polygon: [] });
    for (const pane of this.#panes) pane.map.doubleClickZoom.disable();
    this.#redraw();
    showAreas(this.#view, { note: "Click or tap the corners; the first one, a double click or Enter ends it." });
  }

  /** Takes a click as a corner. */
  add(map, event) {
    const first = this.#corners[0] && map.project(this.#corners[0]);
    if (this.#corners.length > 2 && first.dist(event.point) < NEAR) return this.finish();
    const last = this.#corners.at(-1) && map.project(this.#corners.at(-1));
    if (!last || last.dist(event.point) > 2) this.#corners.push([event.lngLat.lng, event.lngLat.lat].map(kept));
    this.#redraw();
  }

  /** Shows the line to where the pointer is. */
  hover(event) {
    if (this.#corners?.length) this.#redraw([event.lngLat.lng, event.lngLat.lat]);
  }

  /** Takes the last corner back. */
  back() {
    this.#corners?.pop();
    this.#redraw();
  }

  /** Closes the polygon and counts what lies in it. */
  finish() {
    if (!this.#corners) return;
    const polygon = this.#corners;
    this.#end();
    if (polygon.length < 3) return this.clear();
    change({ polygon });
    this.#redraw();
    this.#count();
  }

  /** Removes the polygon. */
  clear() {
    this.#asked++;
    this.#end();
    change({ polygon: [] });
    this.#redraw();
    showAreas(this.#view, { note: "Draw a polygon to count the classes in it." });
  }

  #end() {
    this.#corners = null;
    for (const pane of this.#panes) pane.map.doubleClickZoom.enable();
  }

  #redraw(pointer) {
    const corners = this.#corners ?? state.polygon;
    for (const pane of this.#panes) {
      pane.draw(pointer ? [...corners, pointer] : corners, !this.active && corners.length > 2);
      pane.map.getCanvas().style.cursor = this.active ? "crosshair" : "";
    }
    by("draw").hidden = this.active;
    by("finish").hidden = !this.active;
    by("clear").hidden = !this.active && !state.polygon.length;
    by("hint").hidden = !this.active;
    by("hint").textContent = "Drawing: Enter ends it, Esc gives it up";
  }

  async #count() {
    const asked = ++this.#asked;
    this.#redraw();
    showAreas(this.#view, { note: "counting …" });
    try {
      const [{ classes, nodata }] = (await readAreas(state.polygon)).polygons;
      if (asked === this.#asked) showAreas(this.#view, { rows: classes, nodata, note: classes.some((row) => row.pixels) ? undefined : "It holds no pixel with data." });
    } catch (error) {
      if (asked === this.#asked) showAreas(this.#view, { note: error.message });
    }
  }
}
