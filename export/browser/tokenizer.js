/**
 * The tokenizer of an exported model, read from its SentencePiece file.
 *
 * It reads the models that these artifacts carry: char, word, bpe or unigram over text taken as it is (nothing
 * normalised, no space put before it), in which a space is written U+2581. `../tokenizer.py` does the same in Python.
 */

/**
 * A SentencePiece model: piece, score and type of each id, and the rules that go with them.
 * @typedef {object} Tokenizer
 * @property {string} kind
 * @property {string[]} pieces
 * @property {number[]} scores
 * @property {number[]} types
 * @property {boolean} byteFallback
 * @property {string} unknownSurface
 * @property {Map<string, number>} ids of each piece that text is cut into: not symbols like `<s>`, and not bytes
 * @property {Map<number, number>} byteIds of each byte 0 to 255: the piece `<0x0A>` stands for byte 10
 * @property {Set<string>} userDefined pieces that are always cut out whole and never merged
 * @property {number} longest characters of a piece
 */

/**
 * A protobuf message: its fields by number, varints as numbers, everything else as bytes.
 * @typedef {Map<number, (number | Uint8Array<ArrayBuffer>)[]>} Fields
 */

const SPACE = "\u2581";
const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, , BYTE] = [1, 2, 3, 4, 5, 6]; // the types of a piece
const KINDS = new Map([[1, "unigram"], [2, "bpe"], [3, "word"], [4, "char"]]);
const SIZES = new Map([[1, 8], [5, 4]]); // bytes of a protobuf value by its wire type
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Read a SentencePiece `ModelProto`; an Error if it is damaged or needs rules not known here.
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
  // A charsmap; add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, which are on by default.
  const charsmap = bytes(normalizer, 2, new Uint8Array()).length > 0;
  const [prefix, remove, escape] = [3, 4, 5].map((field) => number(normalizer, field, 1) !== 0);
  if (charsmap || prefix || remove || !escape) {
    throw new Error("its tokenizer changes the text (normalisation, a dummy prefix), this client does not");
  }
  return tokenizer;
}

/**
 * @param {Fields} trainer
 * @param {Fields[]} list of pieces
 * @returns {Tokenizer}
 */
function tokenizerOf(trainer, list) {
  const kind = KINDS.get(number(trainer, 3, 1));
  if (!kind || !list.length) throw new Error("no kind of model that is known here");
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
 * The fields of a protobuf message: `fields([0x08, 0x96, 0x01])` is `{1 => [150]}`.
 * @param {Uint8Array} message
 * @returns {Fields}
 */
function fields(message) {
  /** @type {Fields} */
  const found = new Map();
  let at = 0;
  const varint = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      if (at >= message.length) throw new Error("cut short");
      value += (message[at] & 0x7f) * scale;
      if (message[at++] < 0x80) return value;
    }
  };
  const sized = (/** @type {number} */ size) => {
    if (Number.isNaN(size) || at + size > message.length) throw new Error("cut short");
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
 * The byte that a piece such as `<0x0A>` stands for.
 * @param {string} piece
 */
function byteOf(piece) {
  return parseInt(piece.slice(3, 5), 16);
}

/**
 * Ids of the text, line by line. What no piece covers becomes its bytes or, in a word model, unknown.
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
 * Cut into characters, but user-defined symbols whole, the longest first.
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
 * Cut before each space and each newline, but keep a space that is followed by a newline with it.
 * @param {Tokenizer} _
 * @param {string} text
 * @returns {string[]}
 */
function words(_, text) {
  return text.match(/\u2581?\n|\u2581?[^\u2581\n]+|\u2581/gu) ?? [];
}

/**
 * Join, again and again, the two neighbours whose joint piece scores best, the leftmost of equals.
 * @param {Tokenizer} tokenizer
 * @param {string} text
 */
function bpe(tokenizer, text) {
  // The empty part at the end stands for the neighbour that the first (place -1) and the last one lack.
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
    if (!parts[left] || !parts[right] || parts[left] + parts[right] !== piece) continue; // joined elsewhere since
    [parts[left], parts[right]] = [piece, ""];
    after[left] = after[right];
    before[after[left]] = left;
    propose(before[left], left);
    propose(left, after[left]);
  }
  return parts.filter((part) => part);
}

/**
 * Two neighbours that may be joined.
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
 * Put a joint into a binary heap, whose first is the one that comes first.
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
 * Take the first one out of a heap.
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
 * The cut with the highest sum of scores (Viterbi), with SentencePiece's scores and its float32 sums.
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
 * The score of a piece. That of a user-defined one is above any normal piece's, which is the log of its probability.
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
 * The text of the ids, always valid Unicode: a byte that is part of no character becomes U+FFFD.
 * @param {Tokenizer} tokenizer
 * @param {number[]} ids
 */
export function decode(tokenizer, ids) {
  const { push, flush } = decoder(tokenizer);
  return ids.map(push).join("") + flush();
}

/**
 * The text of ids as they come. `push` gives what an id completes, "" while a character lacks bytes; `flush` what is
 * left over in the end, each byte as U+FFFD.
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
 * The characters that are decided, and the bytes that may still become one (none if `final`).
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
 * How an id that is no byte looks in text: control symbols are invisible.
 * @param {Tokenizer} tokenizer
 * @param {number} id
 */
function surface(tokenizer, id) {
  if (tokenizer.types[id] === CONTROL) return "";
  if (tokenizer.types[id] === UNKNOWN) return tokenizer.unknownSurface;
  return tokenizer.pieces[id].replaceAll(SPACE, " ");
}

/**
 * The size of the UTF-8 character that these bytes begin, which may lack its end; 0 if they begin none.
 * @param {number[]} data
 */
function characterSize([first, second, ...rest]) {
  if (first < 0x80) return 1;
  const size = first < 0xc2 || first > 0xf4 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  // Not every second byte may follow: some would spell a shorter character, a surrogate, or none.
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  const follows = second === undefined || (second >= low && second <= high);
  const goesOn = rest.slice(0, Math.max(size - 2, 0)).every((byte) => byte >= 0x80 && byte <= 0xbf);
  return follows && goesOn ? size : 0;
}
