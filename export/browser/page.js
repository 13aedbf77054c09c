/** User interface: sends requests to the worker, and displays the text while it is generated. */

import { strip } from "./strip.js";

/** @typedef {import("./model.js").Piece} Piece */
/** @typedef {import("./strip.js").Shown} Shown */

const LINE = 32; // height of a line of text in pixels

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page lacks #${id}`);
  return found;
}

const form = element("form", HTMLFormElement);
const prompt = element("prompt", HTMLTextAreaElement);
const go = element("go", HTMLButtonElement);
const status = element("status", HTMLElement);
const error = element("error", HTMLElement);
const text = element("text", HTMLElement);
const panel = element("panel", HTMLElement);
const seed = element("seed", HTMLInputElement);
const fresh = element("fresh", HTMLInputElement);

const worker = new Worker("worker.js", { type: "module" });
/** @type {ReturnType<typeof strip> | undefined} */
let bars;
let writing = false;
let characters = 0;
let speed = "";
/** @type {{text: string, nats: number | null} | undefined} */
let half; // the bytes of an incomplete character

worker.addEventListener("message", ({ data }) => {
  const answer = /** @type {import("./worker.js").Answer} */ (data);
  if ("ready" in answer) ready(answer.ready);
  else if ("pieces" in answer) show(answer.pieces, answer.seconds);
  else if ("done" in answer) finish(answer.done);
  else fail(answer.error);
});
worker.addEventListener("error", (event) => fail(event.message || "the model cannot be loaded"));

/** @param {import("./contract.js").Metadata} metadata */
function ready({ vocab_size, recipe, metrics }) {
  const { units, layers } = recipe?.model ?? {};
  const loss = metrics?.validation?.nats_per_token;
  const size = units ? `An LSTM, ${layers} × ${units} units, ` : "An LSTM ";
  const quality = loss ? `, ${loss.toFixed(2)} nats a token on text it has not seen` : "";
  const about = `${size}${vocab_size.toLocaleString("en")} tokens${quality}.`;
  element("about", HTMLElement).textContent = `${about} It runs in this browser; what you type stays here.`;
  // A full bar is the surprise of a uniform distribution over all tokens.
  bars = strip(element("strip", HTMLElement), text, element("readout", HTMLElement), Math.log(vocab_size));
  status.textContent = "Ready.";
  go.disabled = false;
  performance.mark("ready");
}

/** @param {string} name */
function value(name) {
  return element(name, HTMLInputElement).valueAsNumber;
}

function start() {
  [error.textContent, text.textContent, characters, speed, half] = ["", "", 0, "", undefined];
  bars?.clear();
  setWriting(true);
  if (fresh.checked) drawSeed();
  status.textContent = "Reading the prompt …";
  const options = {
    repetition_penalty: value("repetition_penalty"),
    temperature: value("temperature"),
    top_k: value("top_k"),
    top_p: value("top_p"),
    min_p: value("min_p"),
  };
  /** @type {import("./model.js").Request} */
  const request = { prompt: prompt.value, options, seed: seed.value, max_new_tokens: value("length") };
  worker.postMessage({ write: request });
}

/** Show a new random seed. */
function drawSeed() {
  seed.value = `${crypto.getRandomValues(new Uint32Array(1))[0]}`;
}

/** @param {boolean} now */
function setWriting(now) {
  writing = now;
  go.textContent = now ? "Stop" : "Write";
  text.ariaBusy = status.ariaBusy = `${now}`; // screen readers skip text that changes many times per second
}

/**
 * @param {Piece[]} pieces
 * @param {number} seconds since the first was written
 */
function show(pieces, seconds) {
  const follows = hidden() < LINE;
  for (const piece of pieces) append(piece);
  speed = seconds > 0 ? `, ${Math.round(characters / seconds).toLocaleString("en")} a second` : "";
  status.textContent = `${characters.toLocaleString("en")} characters${speed}`;
  if (follows) scrollBy(0, Math.max(hidden(), 0));
  worker.postMessage({ seen: true });
}

/** Return the height in pixels of the text that is below the visible area or behind the panel at the bottom. */
function hidden() {
  const end = text.lastElementChild?.getBoundingClientRect().bottom ?? 0;
  return end - panel.getBoundingClientRect().top;
}

/**
 * Display a piece when its character is complete; the surprise is the sum over its bytes.
 * @param {Piece} piece
 */
function append({ text: added, nats, written }) {
  const whole = { text: added, nats: half?.nats == null ? nats : half.nats + (nats ?? 0) };
  half = added ? undefined : whole;
  if (!added) return;
  const span = document.createElement("span");
  span.textContent = added;
  span.className = written ? "written" : "prompt";
  line().append(span);
  bars?.add({ ...whole, span });
  if (written) characters += [...added].length;
}

/** Return the block of the last line, so that a browser updates the layout of this block only. */
function line() {
  const last = text.lastElementChild;
  const goesOn = last && !last.lastChild?.textContent?.endsWith("\n");
  return goesOn ? last : text.appendChild(document.createElement("div"));
}

const ENDS = { stop: "ended by the model", length: "length reached", stopped: "stopped" };

/** @param {keyof typeof ENDS} reason */
function finish(reason) {
  setWriting(false);
  status.textContent = `${characters.toLocaleString("en")} characters${speed}, ${ENDS[reason]}.`;
}

/** @param {string} message */
function fail(message) {
  if (location.protocol === "file:") return; // loading.js displays an explanation
  setWriting(false);
  status.textContent = "";
  error.textContent = message;
}

function stop() {
  worker.postMessage({ stop: true });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (writing) stop();
  else start();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && writing && !event.isComposing) stop(); // Escape closes the input method first
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !go.disabled && !writing) start();
});
seed.addEventListener("input", () => (fresh.checked = false));

// A number field and its slider have the same value; the number can exceed the range of the slider.
for (const slider of document.querySelectorAll("input[type=range]")) {
  if (!(slider instanceof HTMLInputElement)) continue;
  const number = element(slider.dataset.of ?? "", HTMLInputElement);
  slider.addEventListener("input", () => (number.value = slider.value));
  number.addEventListener("input", () => (slider.value = number.value));
  slider.value = number.value; // a browser may restore either of them after a reload
}

if (fresh.checked) drawSeed();

// On a phone, the open options would hide the text.
element("options", HTMLDetailsElement).open = matchMedia("(min-width: 50rem)").matches;
