/** The user interface: it sends requests to the worker, and displays the text while the model generates it. */

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
let half; // an incomplete character, with the surprise at its bytes so far

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
  const quality = loss ? `, validation loss ${loss.toFixed(2)} nats per token` : "";
  const about = `${size}${vocab_size.toLocaleString("en")} tokens${quality}.`;
  const where = "It runs in your browser; your text stays here.";
  element("about", HTMLElement).textContent = `${about} ${where}`;
  // A bar has its full height at the surprise of a uniform distribution over all tokens.
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

/** Set the seed to a new random number. */
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
 * @param {number} seconds time since the model has begun to generate the text
 */
function show(pieces, seconds) {
  const follows = hidden() < LINE;
  for (const piece of pieces) append(piece);
  speed = seconds > 0 ? `, ${Math.round(characters / seconds).toLocaleString("en")} per second` : "";
  status.textContent = `${characters.toLocaleString("en")} characters${speed}`;
  if (follows) scrollBy(0, Math.max(hidden(), 0));
  worker.postMessage({ seen: true });
}

/** Return the height in pixels of the text that the user cannot see, because it is below the top of the panel. */
function hidden() {
  const end = text.lastElementChild?.getBoundingClientRect().bottom ?? 0;
  return end - panel.getBoundingClientRect().top;
}

/**
 * Display a piece when its character is complete. The surprise at a character is the sum over the tokens of its bytes.
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

/** Return the element of the last line. Each line has its own element, so that a new piece changes only one layout. */
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
  if (location.protocol === "file:") return; // loading.js displays the reason
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
  if (event.key === "Escape" && writing && !event.isComposing) stop(); // Escape may be for the input method
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !go.disabled && !writing) start();
});
seed.addEventListener("input", () => (fresh.checked = false));

// A number field and its slider show the same value. The field also accepts values outside the range of the slider.
for (const slider of document.querySelectorAll("input[type=range]")) {
  if (!(slider instanceof HTMLInputElement)) continue;
  const number = element(slider.dataset.of ?? "", HTMLInputElement);
  slider.addEventListener("input", () => (number.value = slider.value));
  number.addEventListener("input", () => (slider.value = number.value));
  slider.value = number.value; // after a reload, a browser may have restored different values
}

if (fresh.checked) drawSeed();

// On a phone, the options are closed at first, because they would hide the text.
element("options", HTMLDetailsElement).open = matchMedia("(min-width: 50rem)").matches;
