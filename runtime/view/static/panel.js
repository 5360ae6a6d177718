// The panel: which layers are shown, the legend with shares and areas, and how masks compare.

import { change, onChange, state } from "fctl/state.js";

const by = (id) => document.getElementById(id);
const WHOLE = new Intl.NumberFormat("en");

/** Makes an element with text, never HTML: names come from files. */
export function element(tag, { text, name, ...attributes } = {}, ...children) {
  const found = document.createElement(tag);
  if (text !== undefined) found.textContent = text;
  if (name) found.className = name;
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

/** A square in the colour of a class. */
export function swatch(info) {
  const found = element("i", { name: "swatch" });
  found.style.backgroundColor = info ? `rgb(${info.colour.join(" ")})` : "transparent";
  return found;
}

export const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(share * 100).toFixed(1)} %`);
export const hectares = (area) => (area === null ? "" : `${area < 10 ? area.toFixed(2) : area < 100 ? area.toFixed(1) : WHOLE.format(Math.round(area))} ha`);
export const pixels = (count) => `${WHOLE.format(count)} px`;

/** Fills the panel, and keeps it as the state is. */
export function makePanel(view) {
  by("title").textContent = document.title = (view.running && view.files.image) || view.title;
  by("title").title = Object.values(view.files).join(", ");
  for (const pick of [by("pick-left"), by("pick-right")]) {
    for (const layer of view.layers) pick.append(element("option", { text: layer.title, value: layer.name }));
  }
  by("pick-left").addEventListener("change", (event) => change({ left: event.target.value }));
  by("pick-right").addEventListener("change", (event) => change({ right: event.target.value, hidden: false }));
  by("opacity").addEventListener("input", (event) => change({ opacity: Number(event.target.value), hidden: false }));
  by("image").addEventListener("change", (event) => change({ image: event.target.checked }));
  for (const button of by("modes").children) button.addEventListener("click", () => change({ mode: button.dataset.mode }));
  by("fold").addEventListener("click", fold);
  by("all").addEventListener("click", () => change({ off: new Set() }));
  by("none").addEventListener("click", () => change({ off: new Set(view.classes.map((info) => info.id)) }));
  const hasImage = view.layers.some((layer) => layer.name === "image");
  by("row-image").hidden = !hasImage;
  if (view.named) fillLegend(view.classes.map((info) => ({ info })));
  else by("total").textContent = "counting …";
  onChange(() => update(view));
  update(view);
}

/** Folds the panel, or unfolds it. */
export function fold() {
  const folded = by("panel").classList.toggle("folded");
  by("fold").setAttribute("aria-expanded", String(!folded));
}

function update(view) {
  for (const button of by("modes").children) button.setAttribute("aria-checked", String(button.dataset.mode === state.mode));
  const two = state.mode !== "overlay";
  by("row-left").hidden = !two;
  by("label-right").textContent = two ? "Right" : "Show";
  by("pick-left").value = state.left;
  by("pick-right").value = state.right;
  by("opacity").value = state.opacity;
  by("opacity-value").textContent = state.hidden ? "hidden" : `${state.opacity} %`;
  by("image").checked = state.image;
  const shown = view.layers.filter((layer) => [state.right, two ? state.left : ""].includes(layer.name));
  by("ramp").hidden = !shown.some((layer) => layer.shares);
  for (const box of by("classes").querySelectorAll("input")) box.checked = !state.off.has(Number(box.value));
}

/** Shows what was counted over the whole mask. */
export function showCounts(view, counts) {
  if (counts.error) {
    by("total").textContent = counts.error;
    return;
  }
  const rows = counts.classes.filter((row) => view.named || row.pixels).map((row) => ({ info: view.classes[row.id], row }));
  fillLegend(rows);
  const whole = counts.classes.reduce((sum, row) => sum + row.pixels, 0);
  const ground = counts.classes.reduce((sum, row) => sum + (row.hectares ?? 0), 0);
  const size = counts.classes.some((row) => row.hectares !== null) ? `, ${hectares(ground)}` : "";
  const none = counts.nodata ? `; ${pixels(counts.nodata)} without data` : "";
  by("total").textContent = view.running && !view.over ? `so far${size}` : `${pixels(whole)}${size}${none}`;
  showComparison(counts);
}

function fillLegend(rows) {
  by("classes").replaceChildren(...rows.map(({ info, row }) => legendRow(info, row)));
}

function legendRow(info, row) {
  const box = element("input", { type: "checkbox", value: info.id });
  box.checked = !state.off.has(info.id);
  box.addEventListener("change", () => {
    const off = new Set(state.off);
    if (box.checked) off.delete(info.id);
    else off.add(info.id);
    change({ off });
  });
  const label = element("label", {}, box, swatch(info), element("span", { text: info.name, name: "name", title: info.name }));
  if (row) {
    label.append(element("span", { text: percent(row.share), name: "figure" }), element("span", { text: hectares(row.hectares), name: "figure" }));
    const bar = element("b", { name: "bar" });
    bar.style.width = `${row.share * 100}%`;
    bar.style.backgroundColor = `rgb(${info.colour.join(" ")})`;
    label.append(bar);
  }
  return element("li", {}, label);
}

function showComparison({ other, labels }) {
  const lines = [];
  if (other) lines.push(["Differs from the other mask", `${percent(other.different / Math.max(other.pixels, 1))}, ${pixels(other.different)}`]);
  if (labels) {
    lines.push(["Wrong, by the labels", `${percent(labels.different / Math.max(labels.pixels, 1))}, ${pixels(labels.different)}`]);
    if ("miou" in labels) lines.push(["Accuracy, mIoU", `${percent(labels.accuracy)}, ${percent(labels.miou)}`]);
  }
  by("comparison").hidden = !lines.length;
  by("comparison").replaceChildren(
    element("h2", {}, element("span", { text: "Comparison" })),
    ...lines.map(([what, found]) => element("p", {}, element("span", { text: what }), element("span", { text: found, name: "figure" }))),
  );
}

/** Shows the classes in a polygon, what went wrong, or nothing. */
export function showAreas(view, { rows, nodata, note }) {
  by("areas").hidden = !rows;
  by("measure-note").textContent = note ?? "";
  by("measure-note").hidden = !note;
  by("areas").replaceChildren();
  if (!rows) return;
  for (const row of rows.filter((one) => one.pixels)) {
    const info = view.classes[row.id];
    by("areas").append(element(
      "tr", { "data-id": row.id, "data-pixels": row.pixels }, element("td", {}, swatch(info)), element("th", { text: row.class, scope: "row" }),
      element("td", { text: percent(row.share), name: "figure" }),
      element("td", { text: row.hectares === null ? pixels(row.pixels) : hectares(row.hectares), name: "figure" }),
    ));
  }
  if (nodata) by("areas").append(element("tr", {}, element("td"), element("th", { text: "no data", scope: "row" }), element("td"), element("td", { text: pixels(nodata), name: "figure" })));
}
