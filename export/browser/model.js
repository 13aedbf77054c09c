/**
 * Opens the model of a folder and generates text with it. The folder contains the files `model.onnx`,
 * `tokenizer.model` and `keras_lstmgen.json`.
 *
 * The caller passes ONNX Runtime and a function that reads a file. The module therefore works in browsers and in Node.
 */

import { checkOptions, finishReason, generate, noise, promptIds, readMetadata } from "./contract.js";
import { decoder, encode, read } from "./tokenizer.js";

/** @typedef {import("./contract.js").Metadata} Metadata */
/** @typedef {import("./contract.js").Options} Options */
/** @typedef {import("./contract.js").Step} Step */
/** @typedef {import("./tokenizer.js").Tokenizer} Tokenizer */
/** @typedef {typeof import("onnxruntime-web")} Runtime */

/**
 * An opened model.
 * @typedef {object} Model
 * @property {Step} step
 * @property {Metadata} metadata
 * @property {Tokenizer} tokenizer
 */

/**
 * A request for a text.
 * @typedef {object} Request
 * @property {string} prompt
 * @property {Options} options
 * @property {bigint | number | string} seed a bigint or a string if it is above 2^53
 * @property {number} max_new_tokens largest number of tokens to generate
 */

/**
 * A token of the prompt or of the generated text, with the text that it adds. The surprise of the model is the negative
 * log-probability of the token.
 * @typedef {object} Piece
 * @property {number | null} id id of the token; null for the text that is left after the last token
 * @property {string} text text that the token adds; "" if its character is incomplete
 * @property {number | null} nats surprise of the model in nats; null if the model did not predict the token
 * @property {boolean} written true for tokens of the generated text, false for tokens of the prompt
 */

/**
 * Open the model; throw an Error if it is damaged.
 * @param {(name: string) => Promise<Uint8Array>} file reads a file of the folder
 * @param {Runtime} ort ONNX Runtime
 * @returns {Promise<Model>}
 */
export async function open(file, ort) {
  const [graph, json, pieces] = await Promise.all(["model.onnx", "keras_lstmgen.json", "tokenizer.model"].map(file));
  const metadata = readMetadata(new TextDecoder().decode(json));
  const tokenizer = read(pieces);
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  /** @type {Step} */
  const step = async (id, state) => {
    const ids = new ort.Tensor("int32", Int32Array.of(id), [1]);
    const out = await session.run({ ids, state: new ort.Tensor("float32", state, [1, state.length]) });
    return { logits: floats(out.logits), state: floats(out.next_state) };
  };
  const { logits } = await step(metadata.start_id, new Float32Array(metadata.state_size));
  if (logits.length !== metadata.vocab_size || tokenizer.pieces.length !== metadata.vocab_size) {
    throw new Error("model, tokenizer and metadata differ in vocabulary size");
  }
  return { step, metadata, tokenizer };
}

/** @param {import("onnxruntime-web").Tensor} tensor */
function floats({ data }) {
  if (!(data instanceof Float32Array)) throw new Error("the outputs of the model are not float32");
  return data;
}

/**
 * Generate a text token by token. Yields the tokens of the prompt, then the tokens of the text, and returns the finish
 * reason. Throws a RangeError if a value of the request is out of range.
 * @param {Model} model
 * @param {Request} request
 * @returns {AsyncGenerator<Piece, "stop" | "length", void>}
 */
export async function* write({ step, metadata, tokenizer }, { prompt, options, seed, max_new_tokens }) {
  checkOptions(options);
  const numbers = noise(seedOf(seed), limitOf(max_new_tokens));
  const encoded = encode(tokenizer, prompt);
  const ids = promptIds(encoded, metadata);
  const [inPrompt, inText] = [decoder(tokenizer), decoder(tokenizer)];
  // The start symbol may be a newline, but the page must not display it, because the user did not type it.
  let unseen = ids.length - encoded.length;
  /** @type {number[]} */
  const tokens = [];
  for await (const { id, logprob, written } of generate(step, ids, metadata, options, numbers)) {
    if (written) tokens.push(id);
    const text = unseen-- > 0 ? "" : (written ? inText : inPrompt).push(id);
    yield { id, text, nats: logprob === null ? null : -logprob, written };
  }
  const rest = inText.flush();
  if (rest) yield { id: null, text: rest, nats: null, written: true };
  return finishReason(tokens, metadata);
}

/** @param {bigint | number | string} seed */
function seedOf(seed) {
  if (!/^\s*[+-]?\d+\s*$/.test(`${seed}`)) throw new RangeError("seed is out of range: it must be a whole number");
  const number = BigInt(`${seed}`.replace("+", ""));
  if (number < -(2n ** 63n) || number >= 2n ** 64n) throw new RangeError("seed is out of range: it must have 64 bits");
  return number;
}

/** @param {number} tokens */
function limitOf(tokens) {
  if (!(Number.isInteger(tokens) && tokens >= 1 && tokens <= 65_536)) {
    throw new RangeError("length is out of range: it must be a whole number, 1 to 65536");
  }
  return tokens;
}
