/**
 * A model in a folder: `model.onnx`, `tokenizer.model` and `keras_lstmgen.json`, opened, and the text that it writes.
 *
 * The caller brings ONNX Runtime and the way to read a file, so that a browser and Node both can.
 */

import { checkOptions, finishReason, generate, noise, promptIds, readMetadata } from "./contract.js";
import { decoder, encode, read } from "./tokenizer.js";

/** @typedef {import("./contract.js").Metadata} Metadata */
/** @typedef {import("./contract.js").Options} Options */
/** @typedef {import("./contract.js").Step} Step */
/** @typedef {import("./tokenizer.js").Tokenizer} Tokenizer */
/** @typedef {typeof import("onnxruntime-web")} Runtime */

/**
 * @typedef {object} Model
 * @property {Step} step
 * @property {Metadata} metadata
 * @property {Tokenizer} tokenizer
 */

/**
 * A text to write. A seed beyond 2^53 is a bigint or a string: no number holds it.
 * @typedef {object} Request
 * @property {string} prompt
 * @property {Options} options
 * @property {bigint | number | string} seed
 * @property {number} max_new_tokens
 */

/**
 * What one token adds: text, which is "" while a character lacks bytes, and how surprised the model was, in nats (null
 * where it was not asked). The tokens of the prompt come first; they are not `written`.
 * @typedef {object} Piece
 * @property {number | null} id null for what is left over behind the last token
 * @property {string} text
 * @property {number | null} nats
 * @property {boolean} written
 */

/**
 * Open the model; an Error says what is wrong with it.
 * @param {(name: string) => Promise<Uint8Array>} file
 * @param {Runtime} ort
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
  if (!(data instanceof Float32Array)) throw new Error("the model's numbers are not float32");
  return data;
}

/**
 * Write a text, token by token; a RangeError if something of the request is out of its range. Returns why it ended.
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
  let unseen = ids.length - encoded.length; // the start symbol, which may be a newline, is no text of the prompt
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
