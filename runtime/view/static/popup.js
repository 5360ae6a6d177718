// What a click tells of a place.

import { element, percent, swatch } from "fctl/panel.js";
import { readPoint } from "fctl/source.js";

let open = null;

/** Shows what the rasters say where somebody clicked. */
export async function tell(view, map, { lng, lat }) {
  open?.remove();
  const body = element("div", { name: "told" }, element("p", { text: "…" }));
  open = new maplibregl.Popup({ maxWidth: "300px", closeOnClick: false, offset: 6 }).setLngLat([lng, lat]).setDOMContent(body).addTo(map);
  try {
    body.replaceChildren(...told(view, await readPoint(view, lng, lat), lng, lat));
  } catch (error) {
    body.replaceChildren(element("p", { text: error.message }));
  }
}

/** Closes what a click opened; tells whether there was any. */
export function closeTold() {
  const was = open?.isOpen() ?? false;
  open?.remove();
  open = null;
  return was;
}

function told(view, found, lng, lat) {
  const info = view.classes[found.mask];
  const parts = [element("h3", { "data-id": found.mask ?? "" }, swatch(info), element("span", { text: info?.name ?? "no data" }))];
  const facts = element("dl");
  const fact = (what, text) => facts.append(element("dt", { text: what }), element("dd", { text }));
  if (typeof found.confidence === "number") fact("confidence", percent(found.confidence));
  for (const role of ["other", "labels"]) {
    if (role in found) fact(role === "other" ? "other mask" : "label", view.classes[found[role]]?.name ?? "no data");
  }
  if (found.image) fact("image", found.image.map((sample) => (sample === null ? "none" : Number(sample.toPrecision(5)))).join(", "));
  if (view.placed) {
    if (typeof found.x === "number") fact(view.system, `${shortened(found.x)}, ${shortened(found.y)}`);
    fact("lat, lng", `${lat.toFixed(6)}, ${lng.toFixed(6)}`);
  }
  if (typeof found.row === "number") fact("row, column", `${found.row}, ${found.column}`);
  if (facts.children.length) parts.push(facts);
  if (found.probabilities) parts.push(bars(view, found.probabilities));
  return parts;
}

function bars(view, shares) {
  const order = shares.map((share, id) => ({ share: share ?? 0, info: view.classes[id] })).sort((a, b) => b.share - a.share);
  return element("ul", { name: "bars" }, ...order.slice(0, 8).map(({ share, info }) => {
    const bar = element("b");
    bar.style.width = `${share * 100}%`;
    bar.style.backgroundColor = `rgb(${info.colour.join(" ")})`;
    return element("li", {}, element("span", { text: info.name }), element("i", {}, bar), element("span", { text: percent(share), name: "figure" }));
  }));
}

const shortened = (number) => (Math.abs(number) > 1000 ? number.toFixed(1) : number.toFixed(6));
