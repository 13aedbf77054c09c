/**
 * Runs the model in a web worker, so that the page stays responsive. The worker receives requests from the page, and
 * sends the generated text to it.
 */

import { open, write } from "./model.js";
import * as ort from "./onnxruntime/ort.js";

/** @typedef {import("./model.js").Piece} Piece */

/**
 * The messages that the worker sends to the page.
 * @typedef {{ready: import("./contract.js").Metadata}
 *   | {pieces: Piece[], seconds: number}
 *   | {done: "stop" | "length" | "stopped"}
 *   | {error: string}} Answer
 */

const FRAME = 16; // minimum time between two messages in milliseconds, about one frame of the screen

ort.env.wasm.numThreads = 1; // more threads would require HTTP headers that most servers for static files do not send
const opened = open(fetched, ort);
let stopped = false;
let seen = () => {};

/** @param {Answer} answer */
const tell = (answer) => self.postMessage(answer);
const fail = (/** @type {unknown} */ error) => tell({ error: error instanceof Error ? error.message : `${error}` });

opened.then(({ metadata }) => tell({ ready: metadata }), fail);
self.addEventListener("message", ({ data }) => {
  if ("seen" in data) return seen();
  stopped = "stop" in data;
  if ("write" in data) run(data.write).catch(fail);
});

/** @param {import("./model.js").Request} request */
async function run(request) {
  const pieces = write(await opened, request);
  /** @type {Piece[]} */
  let waiting = [];
  let [began, told] = [0, performance.now()];
  const report = () => tell({ pieces: waiting.splice(0), seconds: began && (performance.now() - began) / 1000 });
  for (let next = await pieces.next(); ; next = await pieces.next()) {
    if (next.done) {
      report();
      return tell({ done: next.value });
    }
    waiting.push(next.value);
    if (!next.value.written) began = performance.now(); // the measured time begins after the prompt was read
    if (performance.now() - told < FRAME) continue;
    const shown = new Promise((/** @type {(value: void) => void} */ resolve) => (seen = resolve));
    report();
    await shown; // waits for the page, which may be slower than the model
    if (stopped) return tell({ done: "stopped" });
    told = performance.now();
  }
}

/** @param {string} name */
async function fetched(name) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name} cannot be loaded (${answer.status} ${answer.statusText})`);
  return new Uint8Array(await answer.arrayBuffer());
}
