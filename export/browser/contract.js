/**
 * Generates text with an exported model, one text at a time, as specified in docs/contract.md.
 *
 * The module generates the random numbers of a seed, samples a token from logits, and runs the generation loop, which
 * calls the graph `step`. V is the vocabulary size, and S is the state size. JavaScript computes in float64, so
 * `Math.fround` or a Float32Array rounds each result to float32. Probabilities are added as integers. Therefore a seed
 * selects the same tokens as in other runtimes.
 */

/**
 * Metadata of a model.
 * @typedef {object} Metadata
 * @property {number} format_version
 * @property {number} vocab_size V, number of ids
 * @property {number} state_size S, number of float32 values in the state of a text
 * @property {number} start_id id of the start symbol
 * @property {number} end_id id of the end symbol, after which generation stops
 * @property {number[]} unsampled_ids ids that are never generated
 * @property {boolean} [prompt_start] whether the model reads the start symbol before a prompt
 * @property {number} [source_end_id] id of the symbol that ends the source of a pair; -1 for other models
 * @property {any} [recipe] recipe of the training
 * @property {any} [metrics] losses of the run
 */

/**
 * Sampling options.
 * @typedef {object} Options
 * @property {number} repetition_penalty
 * @property {number} temperature
 * @property {number} top_k
 * @property {number} top_p
 * @property {number} min_p
 */

/**
 * The graph `step`, which takes an id and a state [S], and returns logits [V] and the next state [S].
 * @typedef {(id: number, state: Float32Array) => Promise<{logits: Float32Array, state: Float32Array}>} Step
 */

/**
 * A token of the prompt or of the generated text.
 * @typedef {object} Token
 * @property {number} id
 * @property {number | null} logprob log-probability of the token in nats; null if the model did not predict it
 * @property {boolean} written true for tokens of the generated text, false for tokens of the prompt
 */

const FORMAT_VERSION = 1;
const GOLDEN = 0x9e3779b9;
const UNIT = 2 ** 36; // the integer that represents the probability 1
const STEPS = 2 ** 24; // noise and top_p are multiples of 1 / STEPS
const { fround } = Math;

/** Options that turn all sampling options off. */
export const NEUTRAL = Object.freeze({ repetition_penalty: 1, temperature: 1, top_k: 0, top_p: 1, min_p: 0 });

/**
 * Read the metadata of a model from JSON; throw an Error if their format is unknown or an entry is missing.
 * @param {string} text
 * @returns {Metadata}
 */
export function readMetadata(text) {
  const values = JSON.parse(text);
  if (values?.format_version !== FORMAT_VERSION) {
    throw new Error(`its metadata is not of format_version ${FORMAT_VERSION}`);
  }
  for (const name of ["vocab_size", "state_size", "start_id", "end_id", "unsampled_ids"]) {
    if (!(name in values)) throw new Error(`its metadata lacks ${name}`);
  }
  if (new Set(values.unsampled_ids).size >= values.vocab_size) {
    throw new Error("its metadata excludes all ids from generation");
  }
  return values;
}

/**
 * Check the range of every option; throw a RangeError with the name of the first option that is out of range or NaN.
 * @param {Options} options
 */
export function checkOptions({ repetition_penalty: r, temperature: T, top_k: k, top_p: p, min_p: m }) {
  hold("repetition_penalty", r >= 1e-6 && r <= 1e6, "0.000001 to 1000000 (1: off)");
  hold("temperature", T === 0 || (T >= 1e-6 && T <= 1e6), "0 (greedy), or 0.000001 to 1000000");
  hold("top_k", Number.isInteger(k) && k >= 0 && k < 2 ** 31, "a whole number, 0 (off) to 2147483647");
  hold("top_p", p > 0 && p <= 1, "above 0, up to 1 (off)");
  hold("min_p", m >= 0 && m <= 1, "0 (off) to 1");
}

/**
 * @param {string} option
 * @param {boolean} holds
 * @param {string} wanted
 */
function hold(option, holds, wanted) {
  if (!holds) throw new RangeError(`${option} is out of range: it must be ${wanted}`);
}

/**
 * Return random numbers of a seed, uniformly distributed in [0, 1); generation uses one per token.
 *
 * For example, `noise(0n, 2)` is about [0.2202, 0.6937].
 * @param {bigint} seed 64-bit number; a negative seed gives the same numbers as its two's complement
 * @param {number} n number of random numbers
 * @param {number} start position of the first returned number in the sequence of the seed
 */
export function noise(seed, n, start = 0) {
  const low = Number(BigInt.asUintN(32, seed));
  const high = Number(BigInt.asUintN(32, seed >> 32n));
  const key = mix(mix(low + GOLDEN) ^ high);
  return Float32Array.from({ length: n }, (_, t) => (mix(key ^ mix(start + t + GOLDEN)) >>> 8) / 2 ** 24);
}

/**
 * Apply the hash "lowbias32" (Wellons, 2018) to a number, in uint32 arithmetic.
 * @param {number} x
 */
function mix(x) {
  x >>>= 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/**
 * Sample the next token, and return its id; docs/contract.md specifies the order of the operations.
 * @param {Float32Array} logits [V], output of `step`
 * @param {number} number random number in [0, 1)
 * @param {Uint8Array} seen [V], 1 for each id in the prompt or in the text so far
 * @param {Options} options
 * @param {Uint8Array} sampled [V], 1 for each id that may be generated
 */
export function choose(logits, number, seen, options, sampled) {
  const scaled = penalised(logits, seen, options, sampled);
  if (options.temperature === 0) return scaled.indexOf(largest(scaled)); // the lowest id if several are equal

  const temperature = fround(options.temperature);
  for (let i = 0; i < scaled.length; i++) scaled[i] /= temperature;
  const lowest = threshold(scaled, options);
  const kept = scaled.map((logit, i) => (sampled[i] && logit >= lowest ? logit : -Infinity));
  const shares = parts(kept);
  return reaching(shares, share(Math.min(Math.floor(number * STEPS), STEPS - 1), shares) + 1);
}

/**
 * Return the logits [V] after the repetition penalty; the logits of ids that are never generated are minus infinity.
 * @param {Float32Array} logits
 * @param {Uint8Array} seen
 * @param {Options} options
 * @param {Uint8Array} sampled
 */
function penalised(logits, seen, options, sampled) {
  const penalty = fround(options.repetition_penalty);
  return logits.map((logit, i) => {
    if (!sampled[i]) return -Infinity;
    if (!seen[i]) return logit;
    return logit > 0 ? logit / penalty : logit * penalty;
  });
}

/**
 * Return the lowest scaled logit that `top_k`, `top_p` and `min_p` allow.
 * @param {Float32Array} scaled
 * @param {Options} options
 */
function threshold(scaled, { top_k, top_p, min_p }) {
  const sorts = top_k > 0 || fround(top_p) < 1;
  const falling = sorts ? scaled.slice().sort().reverse() : scaled;
  const thresholds = [-Infinity];
  if (top_k > 0 && top_k <= falling.length) thresholds.push(falling[top_k - 1]);
  if (fround(top_p) < 1) thresholds.push(falling[nucleus(falling, fround(top_p))]);
  if (min_p > 0) thresholds.push(fround(largest(scaled) + fround(Math.log(fround(min_p)))));
  return Math.max(...thresholds);
}

/**
 * Return the first position at which the probabilities of the sorted logits add up to p or more.
 * @param {Float32Array} falling [V], logits in descending order
 * @param {number} p
 */
function nucleus(falling, p) {
  const shares = parts(falling);
  return reaching(shares, -share(-Math.ceil(p * STEPS), shares));
}

/**
 * Return the first position at which the sum of the numbers reaches a value.
 * @param {Float64Array} shares
 * @param {number} wanted the value, at most the sum of all numbers
 */
function reaching(shares, wanted) {
  let at = 0;
  for (let sum = shares[0]; sum < wanted; ) sum += shares[++at];
  return at;
}

/**
 * Return the sum of all numbers times `steps` / STEPS, rounded down. The function uses BigInt because the product
 * exceeds 2^53.
 * @param {number} steps
 * @param {Float64Array} shares
 */
function share(steps, shares) {
  const total = shares.reduce((sum, part) => sum + part);
  return Number((BigInt(steps) * BigInt(total)) >> 24n);
}

/**
 * Return the probabilities [V] as integers, because sums of integers do not depend on the order.
 * @param {Float32Array} logits
 */
function parts(logits) {
  const top = largest(logits);
  const powers = logits.map((logit) => Math.exp(fround(logit - top)));
  let total = 0;
  for (const power of powers) total += power;
  total = fround(total);
  return Float64Array.from(powers, (power) => Math.floor(fround(power / total) * UNIT));
}

/** @param {Float32Array} values */
function largest(values) {
  let found = -Infinity;
  for (const value of values) if (value > found) found = value;
  return found;
}

/**
 * Return the log-probability of an id in nats, without the sampling options.
 * @param {Float32Array} logits [V]
 * @param {number} id
 */
export function logprob(logits, id) {
  const top = largest(logits);
  let total = 0;
  for (const logit of logits) total += Math.exp(logit - top);
  return logits[id] - top - Math.log(total);
}

/**
 * Return the ids that the model must read for an encoded prompt. The function prepends the start symbol if the prompt
 * is empty or the metadata require it. If the model was trained on pairs, it appends the symbol that ends a source,
 * unless the prompt contains it.
 * @param {number[]} encoded
 * @param {Metadata} metadata
 */
export function promptIds(encoded, metadata) {
  const end = metadata.source_end_id ?? -1;
  const closed = end < 0 || encoded.includes(end) || !encoded.length ? encoded : [...encoded, end];
  return metadata.prompt_start || !encoded.length ? [metadata.start_id, ...closed] : closed;
}

/**
 * Read a prompt, and generate one token per random number, until the end token is sampled.
 *
 * Yields each token of the prompt before the model reads it, and each token of the text as soon as it is sampled.
 * @param {Step} step
 * @param {number[]} ids ids of the prompt, at least one; if the last id is the end token, nothing is generated
 * @param {Metadata} metadata
 * @param {Options} options
 * @param {Float32Array} numbers random numbers in [0, 1)
 * @returns {AsyncGenerator<Token, void, void>}
 */
export async function* generate(step, ids, metadata, options, numbers) {
  const seen = new Uint8Array(metadata.vocab_size);
  const sampled = new Uint8Array(metadata.vocab_size).fill(1);
  for (const id of metadata.unsampled_ids) sampled[id] = 0;
  /** @type {{logits: Float32Array | null, state: Float32Array}} */
  let now = { logits: null, state: new Float32Array(metadata.state_size) };
  for (const id of ids.at(-1) === metadata.end_id ? [] : ids) {
    yield { id, logprob: now.logits && logprob(now.logits, id), written: false };
    now = await step(id, now.state);
    seen[id] = 1;
  }
  for (const [t, number] of numbers.entries()) {
    if (!now.logits) return;
    const id = choose(now.logits, number, seen, options, sampled);
    yield { id, logprob: logprob(now.logits, id), written: true };
    if (id === metadata.end_id || t === numbers.length - 1) return;
    now = await step(id, now.state);
    seen[id] = 1;
  }
}

/**
 * Return "stop" if the text ends with the end token, or "length" if it reached the largest number of tokens.
 * @param {number[]} tokens
 * @param {Metadata} metadata
 */
export function finishReason(tokens, metadata) {
  return tokens.length && tokens.at(-1) !== metadata.end_id ? "length" : "stop";
}
