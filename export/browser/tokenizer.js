/**
 * Encodes and decodes text with the SentencePiece model of an artifact.
 *
 * The module supports SentencePiece models of the types char, word, bpe and unigram that do not normalize the text and
 * do not add a dummy prefix. In pieces, the character U+2581 represents a space. `../tokenizer.py` is the same
 * tokenizer in Python.
 */

/**
 * A SentencePiece model: the piece, the score and the type of each id, and the options of the model.
 * @typedef {object} Tokenizer
 * @property {string} kind "char", "word", "bpe" or "unigram"
 * @property {string[]} pieces [V]
 * @property {number[]} scores [V]
 * @property {number[]} types [V]
 * @property {boolean} byteFallback whether text without a piece is encoded as bytes
 * @property {string} unknownSurface text that the unknown id is decoded to
 * @property {Map<string, number>} ids ids of the pieces that are text, which excludes control symbols and byte pieces
 * @property {Map<number, number>} byteIds ids of the byte pieces; for example, the piece `<0x0A>` has the byte 10
 * @property {Set<string>} userDefined user-defined pieces, which the encoder never splits or merges
 * @property {number} longest length of the longest piece in `ids`, in characters
 */

/**
 * Fields of a protobuf message by their numbers. Varints are numbers, and all other values are bytes.
 * @typedef {Map<number, (number | Uint8Array<ArrayBuffer>)[]>} Fields
 */

const SPACE = "\u2581";
const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, , BYTE] = [1, 2, 3, 4, 5, 6]; // types of pieces
const KINDS = new Map([[1, "unigram"], [2, "bpe"], [3, "word"], [4, "char"]]);
const SIZES = new Map([[1, 8], [5, 4]]); // size in bytes of a protobuf value by its wire type
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Read a SentencePiece `ModelProto`; throw an Error if it is damaged or uses unsupported options.
 * @param {Uint8Array} model
 * @returns {Tokenizer}
 */
export function read(model) {
  let tokenizer, normalizer;
  try {
    const proto = fields(model);
    normalizer = fields(bytes(proto, 3));
    tokenizer = tokenizerOf(fields(bytes(proto, 2)), (proto.get(1) ?? []).map((piece) => fields(asBytes(piece))));
  } catch (error) {
    throw new Error("its tokenizer is not a SentencePiece model", { cause: error });
  }
  // Fields 2 to 5 are charsmap, add_dummy_prefix, remove_extra_whitespaces and escape_whitespaces. The last three are
  // true by default.
  const charsmap = bytes(normalizer, 2, new Uint8Array()).length > 0;
  const [prefix, remove, escape] = [3, 4, 5].map((field) => number(normalizer, field, 1) !== 0);
  if (charsmap || prefix || remove || !escape) {
    throw new Error("its tokenizer changes the text (normalization or a dummy prefix), which is not supported");
  }
  return tokenizer;
}

/**
 * @param {Fields} trainer
 * @param {Fields[]} list the pieces
 * @returns {Tokenizer}
 */
function tokenizerOf(trainer, list) {
  const kind = KINDS.get(number(trainer, 3, 1));
  if (!kind || !list.length) throw new Error("the type of the model is unknown, or it has no pieces");
  const pieces = list.map((piece) => UTF8.decode(bytes(piece, 1)));
  const types = list.map((piece) => number(piece, 3, NORMAL));
  const numbered = pieces.map((piece, id) => ({ piece, id, type: types[id] }));
  const text = numbered.filter(({ type }) => type === NORMAL || type === USER_DEFINED);
  const raw = numbered.filter(({ type }) => type === BYTE);
  return {
    kind,
    pieces,
    types,
    scores: list.map((piece) => float(bytes(piece, 2, new Uint8Array(4)))),
    byteFallback: number(trainer, 35, 0) !== 0,
    unknownSurface: UTF8.decode(bytes(trainer, 44, new TextEncoder().encode(" \u2047 "))),
    ids: new Map(text.map(({ piece, id }) => [piece, id])),
    byteIds: new Map(raw.map(({ piece, id }) => [byteOf(piece), id])),
    userDefined: new Set(text.filter(({ type }) => type === USER_DEFINED).map(({ piece }) => piece)),
    longest: text.reduce((most, { piece }) => Math.max(most, [...piece].length), 0),
  };
}

/**
 * Read the fields of a protobuf message. For example, `fields([0x08, 0x96, 0x01])` returns `{1 => [150]}`.
 * @param {Uint8Array} message
 * @returns {Fields}
 */
function fields(message) {
  /** @type {Fields} */
  const found = new Map();
  let at = 0;
  const varint = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      if (at >= message.length) throw new Error("the message is truncated");
      value += (message[at] & 0x7f) * scale;
      if (message[at++] < 0x80) return value;
    }
  };
  const sized = (/** @type {number} */ size) => {
    if (Number.isNaN(size) || at + size > message.length) throw new Error("the message is truncated");
    at += size;
    return message.slice(at - size, at);
  };
  while (at < message.length) {
    const key = varint();
    const kind = key % 8;
    const value = kind === 0 ? varint() : sized(kind === 2 ? varint() : (SIZES.get(kind) ?? NaN));
    const number = Math.floor(key / 8);
    const list = found.get(number);
    if (list) list.push(value);
    else found.set(number, [value]);
  }
  return found;
}

/** @param {number | Uint8Array<ArrayBuffer> | undefined} value */
function asBytes(value) {
  if (!(value instanceof Uint8Array)) throw new Error("a field is not of its type");
  return value;
}

/**
 * @param {Fields} message
 * @param {number} field
 * @param {Uint8Array<ArrayBuffer>} [otherwise]
 */
function bytes(message, field, otherwise) {
  return asBytes(message.get(field)?.[0] ?? otherwise);
}

/**
 * @param {Fields} message
 * @param {number} field
 * @param {number} otherwise
 */
function number(message, field, otherwise) {
  const value = message.get(field)?.[0] ?? otherwise;
  if (typeof value !== "number") throw new Error("a field is not of its type");
  return value;
}

/** @param {Uint8Array<ArrayBuffer>} four bytes of a float32 */
function float(four) {
  return new DataView(four.buffer, four.byteOffset, 4).getFloat32(0, true);
}

/**
 * Return the byte of a byte piece. For example, the piece `<0x0A>` has the byte 10.
 * @param {string} piece
 */
function byteOf(piece) {
  return parseInt(piece.slice(3, 5), 16);
}

/**
 * Encode a text to ids, line by line. A part of the text that is not a piece is encoded as its UTF-8 bytes. If the
 * model has no byte pieces, it becomes the unknown id.
 * @param {Tokenizer} tokenizer
 * @param {string} text
 */
export function encode(tokenizer, text) {
  const unknown = tokenizer.types.indexOf(UNKNOWN);
  const utf8 = new TextEncoder();
  /** @type {number[]} */
  const ids = [];
  for (const [line] of text.replaceAll(" ", SPACE).matchAll(/[^\n]*\n|[^\n]+/g)) {
    for (const part of CUT[tokenizer.kind](tokenizer, line)) {
      const id = tokenizer.ids.get(part);
      if (id !== undefined) ids.push(id);
      else if (tokenizer.byteFallback) utf8.encode(part).forEach((byte) => ids.push(idOf(tokenizer, byte)));
      else ids.push(unknown);
    }
  }
  return ids;
}

/**
 * @param {Tokenizer} tokenizer
 * @param {number} byte
 */
function idOf(tokenizer, byte) {
  const id = tokenizer.byteIds.get(byte);
  if (id === undefined) throw new Error(`its tokenizer lacks the piece of byte ${byte}`);
  return id;
}

/**
 * Split a text into characters and user-defined pieces; where several match, the longest piece is used.
 * @param {Tokenizer} tokenizer
 * @param {string} text
 * @returns {string[]}
 */
function chars({ userDefined }, text) {
  const whole = [...userDefined].sort((a, b) => [...b].length - [...a].length);
  const escaped = whole.map((piece) => piece.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return text.match(new RegExp([...escaped, "."].join("|"), "gsu")) ?? [];
}

/**
 * Split a text before each space and newline, but not between a space and a newline.
 * @param {Tokenizer} _
 * @param {string} text
 * @returns {string[]}
 */
function words(_, text) {
  return text.match(/\u2581?\n|\u2581?[^\u2581\n]+|\u2581/gu) ?? [];
}

/**
 * Split a text into characters, and merge the adjacent pair with the best score until no pair can be merged. If several
 * pairs have the same score, merge the leftmost pair first.
 * @param {Tokenizer} tokenizer
 * @param {string} text
 */
function bpe(tokenizer, text) {
  // The empty part at the end is the right neighbour of the last part and the left neighbour of the first part.
  const parts = [...chars(tokenizer, text), ""];
  const end = parts.length - 1;
  const before = parts.map((_, at) => (at ? at - 1 : end));
  const after = parts.map((_, at) => at + 1);
  /** @type {Joint[]} */
  const agenda = [];

  const propose = (/** @type {number} */ left, /** @type {number} */ right) => {
    const piece = parts[left] + parts[right];
    const fixed = [parts[left], parts[right]].some((part) => !part || tokenizer.userDefined.has(part));
    const id = fixed ? undefined : tokenizer.ids.get(piece);
    if (id !== undefined) push(agenda, { score: tokenizer.scores[id], left, right, piece });
  };

  for (let at = 0; at < end; at++) propose(at, at + 1);
  for (let joint = pop(agenda); joint; joint = pop(agenda)) {
    const { left, right, piece } = joint;
    if (!parts[left] || !parts[right] || parts[left] + parts[right] !== piece) continue; // merged before
    [parts[left], parts[right]] = [piece, ""];
    after[left] = after[right];
    before[after[left]] = left;
    propose(before[left], left);
    propose(left, after[left]);
  }
  return parts.filter((part) => part);
}

/**
 * A pair of adjacent parts that can be merged.
 * @typedef {{score: number, left: number, right: number, piece: string}} Joint
 */

/**
 * @param {Joint} a
 * @param {Joint} b
 */
function comesFirst(a, b) {
  return a.score > b.score || (a.score === b.score && a.left < b.left);
}

/**
 * Add a pair to a binary heap.
 * @param {Joint[]} heap
 * @param {Joint} joint
 */
function push(heap, joint) {
  let at = heap.length;
  for (let parent = (at - 1) >> 1; at > 0 && comesFirst(joint, heap[parent]); parent = (at - 1) >> 1) {
    heap[at] = heap[parent];
    at = parent;
  }
  heap[at] = joint;
}

/**
 * Remove the first pair of a heap.
 * @param {Joint[]} heap
 * @returns {Joint | undefined}
 */
function pop(heap) {
  const [first] = heap;
  const last = heap.pop();
  if (!last || !heap.length) return first;
  let at = 0;
  for (let child = 1; child < heap.length; child = 2 * at + 1) {
    if (child + 1 < heap.length && comesFirst(heap[child + 1], heap[child])) child++;
    if (!comesFirst(heap[child], last)) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = last;
  return first;
}

/**
 * Split a text so that the sum of the scores is highest, by the Viterbi algorithm. The sums are rounded to float32, as
 * in SentencePiece.
 * @param {Tokenizer} tokenizer
 * @param {string} text
 */
function unigram(tokenizer, text) {
  const characters = [...text];
  const normal = tokenizer.scores.filter((_, id) => tokenizer.types[id] === NORMAL);
  const unknown = normal.reduce((a, b) => Math.min(a, b)) - 10;
  const best = [0, ...characters.map(() => -Infinity)];
  const cameFrom = best.map(() => 0);
  for (let at = 0; at < characters.length; at++) {
    let part = "";
    for (let end = at + 1; end <= Math.min(at + tokenizer.longest, characters.length); end++) {
      part += characters[end - 1];
      const score = scoreOf(tokenizer, part) ?? (end === at + 1 ? unknown : -Infinity);
      const total = Math.fround(best[at] + score);
      if (total > best[end]) [best[end], cameFrom[end]] = [total, at];
    }
  }
  /** @type {string[]} */
  const parts = [];
  for (let end = characters.length; end; end = cameFrom[end]) {
    parts.push(characters.slice(cameFrom[end], end).join(""));
  }
  return parts.reverse();
}

/**
 * Return the score of a piece, or undefined for other text. A user-defined piece has a higher score than normal pieces,
 * whose scores are log-probabilities.
 * @param {Tokenizer} tokenizer
 * @param {string} part
 */
function scoreOf(tokenizer, part) {
  if (tokenizer.userDefined.has(part)) return -0.1;
  const id = tokenizer.ids.get(part);
  return id === undefined ? undefined : tokenizer.scores[id];
}

/** @type {Record<string, (tokenizer: Tokenizer, line: string) => string[]>} */
const CUT = { char: chars, word: words, bpe, unigram };

/**
 * Decode ids to a text; a byte that is not part of a valid UTF-8 character becomes U+FFFD.
 * @param {Tokenizer} tokenizer
 * @param {number[]} ids
 */
export function decode(tokenizer, ids) {
  const { push, flush } = decoder(tokenizer);
  return ids.map(push).join("") + flush();
}

/**
 * Create an incremental decoder. `push` takes an id and returns its text. It keeps the bytes of an incomplete character
 * until the next ids complete it. `flush` returns U+FFFD for each byte that is left.
 * @param {Tokenizer} tokenizer
 */
export function decoder(tokenizer) {
  /** @type {number[]} */
  let held = [];
  const release = (/** @type {boolean} */ final) => {
    let text;
    [text, held] = readUtf8(held, final);
    return text;
  };
  const flush = () => release(true);
  const push = (/** @type {number} */ id) => {
    if (tokenizer.types[id] !== BYTE) return flush() + surface(tokenizer, id);
    held.push(byteOf(tokenizer.pieces[id]));
    return release(false);
  };
  return { push, flush };
}

/**
 * Decode bytes; return the text, and the bytes of an incomplete character at its end. If `final` is true, U+FFFD
 * replaces these bytes, and no bytes are returned.
 * @param {number[]} data
 * @param {boolean} final
 * @returns {[string, number[]]}
 */
function readUtf8(data, final) {
  let text = "";
  let at = 0;
  while (at < data.length) {
    const size = characterSize(data.slice(at, at + 4));
    const whole = size > 0 && at + size <= data.length;
    if (size > 0 && !whole && !final) break;
    text += whole ? UTF8.decode(Uint8Array.from(data.slice(at, at + size))) : "\ufffd";
    at += whole ? size : 1;
  }
  return [text, data.slice(at)];
}

/**
 * Return the text of an id that is not a byte piece; the text of a control symbol is empty.
 * @param {Tokenizer} tokenizer
 * @param {number} id
 */
function surface(tokenizer, id) {
  if (tokenizer.types[id] === CONTROL) return "";
  if (tokenizer.types[id] === UNKNOWN) return tokenizer.unknownSurface;
  return tokenizer.pieces[id].replaceAll(SPACE, " ");
}

/**
 * Return the size in bytes of the UTF-8 character with which the data begins. The character may be incomplete. Return 0
 * if the bytes cannot begin a character.
 * @param {number[]} data
 */
function characterSize([first, second, ...rest]) {
  if (first < 0x80) return 1;
  const size = first < 0xc2 || first > 0xf4 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  // Some second bytes are invalid: overlong encodings, surrogates and numbers above U+10FFFF.
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  const follows = second === undefined || (second >= low && second <= high);
  const goesOn = rest.slice(0, Math.max(size - 2, 0)).every((byte) => byte >= 0x80 && byte <= 0xbf);
  return follows && goesOn ? size : 0;
}
