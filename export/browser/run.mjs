/**
 * Runs the modules and the runtime of a web folder in Node, without a browser.
 *
 *     node run.mjs WEB_FOLDER < requests.json > texts.json
 *
 * The program reads a JSON list of requests {prompt, options, seed, max_new_tokens} from standard input. All values are
 * optional, and a seed above 2^53 must be a string. The program writes a JSON list of {text, tokens, finish_reason,
 * logprob} to standard output.
 *
 * With `--graphs`, the program reads one JSON object {graph, inputs} per line, and writes one line {outputs} or {error}
 * for each of them. Outputs have one row per row of the inputs. The export uses this mode to verify the page.
 */

import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

/**
 * An opened folder: its model and its modules.
 * @typedef {object} Opened
 * @property {import("./model.js").Model} model
 * @property {typeof import("./model.js").write} write
 * @property {typeof import("./contract.js")} contract
 */

/**
 * Open the model of a folder with the modules of the same folder.
 * @param {string} folder
 * @returns {Promise<Opened>}
 */
async function load(folder) {
  const file = async (/** @type {string} */ name) => new Uint8Array(await readFile(resolve(folder, name)));
  const [ort, contract, { open, write }] = await Promise.all(
    ["onnxruntime/ort.js", "contract.js", "model.js"].map((name) => import(pathToFileURL(resolve(folder, name)).href)),
  );
  ort.env.logLevel = "fatal"; // no logs of errors, which are thrown as exceptions too
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await file("onnxruntime/ort-wasm-simd-threaded.wasm")).buffer; // Node cannot fetch files
  return { model: await open(file, ort), write, contract };
}

/**
 * Generate the texts of the requests on standard input.
 * @param {string} folder
 */
async function texts(folder) {
  const requests = JSON.parse(await text(process.stdin));
  const opened = await load(folder);
  const written = [];
  for (const request of requests) written.push(await textOf(opened, request));
  process.stdout.write(JSON.stringify(written));
}

/**
 * @param {Opened} opened
 * @param {Partial<import("./model.js").Request>} request
 */
async function textOf({ model, write, contract }, { prompt = "", seed = 0, max_new_tokens = 200, options }) {
  const pieces = write(model, { prompt, seed, max_new_tokens, options: { ...contract.NEUTRAL, ...options } });
  const written = { text: "", tokens: /** @type {number[]} */ ([]), finish_reason: "", logprob: 0 };
  for (let next = await pieces.next(); ; next = await pieces.next()) {
    if (next.done) return { ...written, finish_reason: next.value };
    if (!next.value.written) continue;
    written.text += next.value.text;
    written.logprob -= next.value.nats ?? 0;
    if (next.value.id !== null) written.tokens.push(next.value.id);
  }
}

/**
 * Run the graph that each line of standard input requests, and write its outputs to a line of standard output.
 * @param {string} folder
 */
async function graphs(folder) {
  const opened = load(folder);
  opened.catch(() => {}); // the response to the first request reports the error
  for await (const line of createInterface({ input: process.stdin })) {
    const answer = await outputsOf(opened, JSON.parse(line)).catch((error) => ({ error: lineOf(error) }));
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
}

/**
 * @param {Promise<Opened>} opened
 * @param {{graph: string, inputs: Record<string, any[]>}} call
 */
async function outputsOf(opened, { graph, inputs }) {
  const outputs = [];
  for (const b of inputs.ids.keys()) {
    const row = Object.fromEntries(Object.entries(inputs).map(([name, values]) => [name, values[b]]));
    outputs.push(await GRAPHS[graph](await opened, row));
  }
  return { outputs };
}

/**
 * The graphs of docs/contract.md, for one row. The folder contains only the graph `step`. The modules of the page
 * compute `score` and `generate` with it.
 * @type {Record<string, (opened: Opened, row: any) => Promise<object>>}
 */
const GRAPHS = {
  async step({ model }, { ids, state }) {
    const out = await model.step(ids, Float32Array.from(state));
    return { logits: [...out.logits], next_state: [...out.state] };
  },
  async score({ model, contract }, { ids, state }) {
    const logprobs = [];
    /** @type {Awaited<ReturnType<import("./contract.js").Step>>} */
    let out = { logits: new Float32Array(), state: Float32Array.from(state) };
    for (const [t, id] of ids.slice(0, -1).entries()) {
      out = await model.step(id, out.state);
      logprobs.push(contract.logprob(out.logits, ids[t + 1]));
    }
    return { logprobs, next_state: [...out.state] };
  },
  /** Generate a text as the page does. The text always begins with a zero state, and the input `state` is ignored. */
  async generate({ model: { step, metadata }, contract }, { ids, noise, ...options }) {
    const tokens = [];
    for await (const token of contract.generate(step, ids, metadata, options, Float32Array.from(noise))) {
      if (token.written) tokens.push(token.id);
    }
    return { tokens: [...tokens, ...Array(noise.length - tokens.length).fill(metadata.end_id)] };
  },
};

/** @param {unknown} error */
function lineOf(error) {
  return (error instanceof Error ? error.message : `${error}`).split("\n")[0];
}

/**
 * Print an error in one line.
 * @param {unknown} error
 */
function fail(error) {
  process.stderr.write(`run.mjs: ${lineOf(error)}\n`);
  process.exitCode = 2;
}

process.stderr.on("error", () => {}); // ignores that standard error was closed
process.stdout.on("error", (error) => {
  if (/** @type {NodeJS.ErrnoException} */ (error).code !== "EPIPE") fail(error); // EPIPE: the reader closed it
  process.exit();
});
const [folder, flag] = process.argv.slice(2);
try {
  if (!folder) throw new Error("give the path of a web folder");
  await (flag === "--graphs" ? graphs(folder) : texts(folder));
} catch (error) {
  fail(error);
}
