// Search without a server. Browsers start no worker from file://, so there a worker's script runs in a hidden frame.
// Material for MkDocs looks for the class by this name, and its search script waits for what importScripts gives.
"use strict";
window.IFrameWorker = class extends EventTarget {
  constructor(address) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.append(this.frame);
    const inside = this.frame.contentWindow;
    const load = (source) =>
      new Promise((loaded, failed) => {
        const script = inside.document.createElement("script");
        Object.assign(script, { src: source, onload: loaded, onerror: failed });
        inside.document.body.append(script);
      });
    inside.importScripts = async (...sources) => {
      for (const source of sources) await load(source);
    };
    inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data })); // what the script sends out
    this.ready = load(new URL(address, document.baseURI).href);
  }
  postMessage(data) {
    this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
  }
  terminate() {
    this.frame.remove();
  }
};
if (location.protocol === "file:") window.Worker = window.IFrameWorker;
