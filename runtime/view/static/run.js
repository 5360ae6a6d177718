// A run that goes on: how far it is, and its mask as it grows.

import { showCounts } from "fctl/panel.js";
import { readCounts, readRun, readView } from "fctl/source.js";

const EVERY = 2000; // milliseconds
const by = (id) => document.getElementById(id);

/** Follows the run until it is over. */
export function followRun(view, panes) {
  let versions = null;
  by("run").hidden = false;
  const look = async () => {
    try {
      const run = await readRun();
      view.over = run.over;
      show(run);
      if (versions !== null && versions !== run.versions) await renew(view, panes);
      versions = run.versions;
    } catch {
      by("run-facts").textContent = "the run has ended";
      return;
    }
    setTimeout(look, EVERY);
  };
  look();
}

async function renew(view, panes) {
  Object.assign(view, await readView());
  await Promise.all(panes.map((pane) => pane.refresh()));
  showCounts(view, await readCounts());
}

function show(run) {
  const share = run.total ? run.done / run.total : 0;
  by("run-bar").firstElementChild.style.width = `${share * 100}%`;
  by("run-bar").setAttribute("aria-valuenow", Math.floor(share * 100));
  by("run-share").textContent = run.over ? "done" : `${Math.floor(share * 100)} %`;
  const facts = [];
  if (run.speed) facts.push(`${run.speed < 10 ? run.speed.toFixed(1) : Math.round(run.speed)} patches/s`);
  if (run.memory) facts.push(`${(run.memory / 1e9).toFixed(1)} GB`);
  if (run.left && !run.over) facts.push(`${duration(run.left)} left`);
  by("run-facts").textContent = facts.join(" · ");
}

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
