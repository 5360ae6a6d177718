// One map: the image, what lies over it, and the polygon.

const NO_CORNERS = { type: "FeatureCollection", features: [] };

export class Pane {
  #map;
  #view;
  #ready;
  #shown = {};
  #serial = 0;

  constructor(container, view, camera) {
    this.#view = view;
    const [west, south, east, north] = view.bounds;
    this.#map = new maplibregl.Map({
      container, attributionControl: false, dragRotate: false, pitchWithRotate: false, touchPitch: false,
      maxZoom: 24, minZoom: 0, renderWorldCopies: false, fadeDuration: 0,
      style: { version: 8, sources: {}, layers: [] },
      ...(camera
        ? { center: [camera.lng, camera.lat], zoom: camera.zoom }
        : { bounds: [west, south, east, north], fitBoundsOptions: { padding: padding() } }),
    });
    this.#map.touchZoomRotate.disableRotation();
    this.#map.keyboard.disableRotation();
    this.#ready = new Promise((resolve) => this.#map.once("style.load", resolve));
    this.#ready.then(() => this.#addPolygon());
  }

  get map() {
    return this.#map;
  }

  /** Shows all of the mask. */
  fit() {
    const [west, south, east, north] = this.#view.bounds;
    this.#map.fitBounds([west, south, east, north], { padding: padding(), duration: 400 });
  }

  /** Shows the image or not, and one layer over it; "image" and "" stand for nothing over it. */
  async show({ image, over, opacity, off }) {
    await this.#ready;
    const wanted = { image: image ? "image" : "", over: over === "image" ? "" : over };
    if (over === "image") wanted.image = "image";
    const offKey = [...off].sort().join();
    if (wanted.image !== this.#shown.image) this.#place("below", wanted.image, 1, "over");
    const changed = wanted.over !== this.#shown.over;
    if (changed) this.#place("over", wanted.over, opacity, "polygon-fill");
    else if (wanted.over && offKey !== this.#shown.offKey) this.#map.getSource("over").setTiles([this.#address(wanted.over)]);
    if (wanted.over && opacity !== this.#shown.opacity && !changed) this.#map.setPaintProperty("over", "raster-opacity", opacity);
    this.#shown = { ...wanted, opacity, offKey };
  }

  /** Asks for all tiles anew, for the rasters are others now. */
  async refresh() {
    await this.#ready;
    for (const [id, name] of [["below", this.#shown.image], ["over", this.#shown.over]]) {
      this.#map.getSource(id)?.setTiles([this.#address(name)]);
    }
  }

  /** Draws corners; closed, as a polygon. */
  async draw(corners, closed) {
    await this.#ready;
    this.#map.getSource("polygon")?.setData(shapes(corners, closed));
  }

  #address(name) {
    return `fctl://${name}/{z}/{x}/{y}?${++this.#serial}`;
  }

  #place(id, name, opacity, before) {
    if (this.#map.getLayer(id)) this.#map.removeLayer(id);
    if (this.#map.getSource(id)) this.#map.removeSource(id);
    const layer = this.#view.layers.find((one) => one.name === name);
    if (!layer) return;
    this.#map.addSource(id, {
      type: "raster", tiles: [this.#address(name)], bounds: layer.bounds, minzoom: layer.minzoom, maxzoom: layer.maxzoom,
      tileSize: devicePixelRatio > 1.4 ? 128 : 256,
    });
    this.#map.addLayer(
      {
        id, type: "raster", source: id,
        paint: {
          "raster-opacity": opacity, "raster-fade-duration": 0, "raster-resampling": name === "image" ? "linear" : "nearest",
        },
      },
      this.#map.getLayer(before) ? before : this.#map.getLayer("polygon-fill") ? "polygon-fill" : undefined,
    );
  }

  #addPolygon() {
    this.#map.addSource("polygon", { type: "geojson", data: NO_CORNERS });
    const common = { source: "polygon" };
    this.#map.addLayer({ id: "polygon-fill", type: "fill", ...common, filter: ["==", "$type", "Polygon"], paint: { "fill-color": "#fff", "fill-opacity": 0.12 } });
    this.#map.addLayer({ id: "polygon-halo", type: "line", ...common, paint: { "line-color": "#000", "line-width": 5, "line-opacity": 0.55 } });
    this.#map.addLayer({ id: "polygon-line", type: "line", ...common, paint: { "line-color": "#fff", "line-width": 2.5 } });
    this.#map.addLayer({
      id: "polygon-corners", type: "circle", ...common, filter: ["==", "$type", "Point"],
      paint: { "circle-radius": 5, "circle-color": "#fff", "circle-stroke-color": "#111", "circle-stroke-width": 2 },
    });
  }
}

function shapes(corners, closed) {
  const feature = (type, coordinates) => ({ type: "Feature", properties: {}, geometry: { type, coordinates } });
  const points = corners.map((corner) => feature("Point", corner));
  if (closed) return { type: "FeatureCollection", features: [feature("Polygon", [[...corners, corners[0]]])] };
  return { type: "FeatureCollection", features: corners.length > 1 ? [feature("LineString", corners), ...points] : points };
}

function padding() {
  const panel = document.getElementById("panel").getBoundingClientRect();
  const stage = document.getElementById("stage").getBoundingClientRect();
  const sheet = panel.width > innerWidth * 0.8;
  return sheet
    ? { top: 16, left: 16, right: 16, bottom: Math.min(stage.bottom - panel.top, stage.height * 0.5) + 16 }
    : { top: 24, bottom: 32, right: 56, left: Math.min(panel.right, innerWidth * 0.5) + 24 };
}
