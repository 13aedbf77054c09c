/**
 * Draws a strip with one bar for each piece of the text. The height and color of a bar represent the surprise of the
 * model at this piece. The strip displays the value when the user points at the bar or at the piece, or presses the
 * arrow keys.
 */

/**
 * A displayed piece of the text, with the surprise of the model in nats.
 * @typedef {{text: string, nats: number | null, span: HTMLElement}} Shown
 */

const WIDEST = 7; // maximum width of a bar in pixels
const LEAP = 10; // number of pieces that Page Up and Page Down skip
const NAMES = new Map([[" ", "A space"], ["\n", "A new line"], ["\t", "A tab"]]);

/**
 * Create a strip. The function `add` of the result adds a piece, and `clear` removes all pieces.
 * @param {HTMLElement} slider element of the strip, which contains a canvas
 * @param {HTMLElement} text element that contains the pieces
 * @param {HTMLElement} readout element that displays the selected value
 * @param {number} top surprise in nats at which a bar has its full height
 */
export function strip(slider, text, readout, top) {
  const canvas = /** @type {HTMLCanvasElement} */ (slider.firstElementChild);
  /** @type {Shown[]} */
  const pieces = [];
  const places = new WeakMap();
  const hint = readout.textContent;
  let chosen = -1;
  let waiting = false;

  const draw = () => {
    waiting = false;
    paint(canvas, pieces, chosen, top);
  };
  const redraw = () => {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  };

  const choose = (/** @type {number} */ at) => {
    pieces[chosen]?.span.classList.remove("chosen");
    chosen = Math.max(0, Math.min(at, pieces.length - 1));
    const words = pieces[chosen] ? inWords(pieces[chosen]) : "";
    pieces[chosen]?.span.classList.add("chosen");
    readout.textContent = words;
    slider.ariaValueNow = `${chosen + 1}`;
    slider.ariaValueText = words;
    redraw();
  };

  slider.addEventListener("keydown", (event) => {
    const goals = new Map([
      ["ArrowLeft", chosen - 1], ["ArrowRight", chosen + 1], ["ArrowDown", chosen - 1], ["ArrowUp", chosen + 1],
      ["PageDown", chosen - LEAP], ["PageUp", chosen + LEAP], ["Home", 0], ["End", pieces.length - 1],
    ]);
    const at = goals.get(event.key);
    if (at === undefined || !pieces.length) return;
    event.preventDefault();
    choose(at);
  });
  const point = (/** @type {PointerEvent} */ event) => {
    const x = event.clientX - slider.getBoundingClientRect().left;
    if (pieces.length) choose(Math.floor(x / width(slider, pieces)));
  };
  slider.addEventListener("pointerdown", point);
  slider.addEventListener("pointermove", point);
  for (const kind of /** @type {const} */ (["pointerover", "click"])) {
    text.addEventListener(kind, ({ target }) => {
      const at = target instanceof HTMLElement ? places.get(target) : undefined;
      if (at !== undefined) choose(at);
    });
  }
  new ResizeObserver(redraw).observe(slider);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  return {
    /** @param {Shown} piece */
    add(piece) {
      places.set(piece.span, pieces.push(piece) - 1);
      piece.span.style.setProperty("--surprise", share(piece, top).toFixed(3));
      slider.ariaValueMin = "1";
      slider.ariaValueMax = `${pieces.length}`;
      redraw();
    },
    clear() {
      pieces.length = 0;
      chosen = -1;
      slider.ariaValueNow = slider.ariaValueText = null;
      readout.textContent = hint;
      redraw();
    },
  };
}

/**
 * Return the height of a bar as a share of the full height, from 0 to 1.
 * @param {Shown} piece
 * @param {number} top
 */
function share({ nats }, top) {
  return Math.min((nats ?? 0) / top, 1);
}

/**
 * Return the width of a bar in pixels, so that all bars fit into the strip.
 * @param {HTMLElement} slider
 * @param {Shown[]} pieces
 */
function width(slider, pieces) {
  return Math.min(WIDEST, slider.clientWidth / pieces.length);
}

/** @param {Shown} piece */
function inWords({ text, nats }) {
  const name = NAMES.get(text) ?? `“${text.replaceAll("\n", " ")}”`;
  if (nats === null) return `${name}: not predicted, because the text begins here`;
  const percent = (100 * Math.exp(-nats)).toLocaleString("en", { maximumSignificantDigits: 2 });
  return `${name}: probability ${percent} %, surprise ${nats.toFixed(2)} nats`;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Shown[]} pieces
 * @param {number} chosen
 * @param {number} top
 */
function paint(canvas, pieces, chosen, top) {
  const slider = /** @type {HTMLElement} */ (canvas.parentElement);
  const [room, height, dots] = [slider.clientWidth, slider.clientHeight, devicePixelRatio];
  const brush = canvas.getContext("2d");
  if (!brush) return;
  [canvas.width, canvas.height] = [room * dots, height * dots];
  brush.scale(dots, dots);
  const style = getComputedStyle(slider);
  const bar = width(slider, pieces);
  const gap = bar > 3 ? 1 : 0;
  const stand = (/** @type {number} */ x, /** @type {number} */ part, /** @type {number} */ alpha) => {
    const tall = Math.max(2, part * height);
    brush.globalAlpha = alpha;
    brush.fillRect(x, height - tall, Math.max(bar - gap, 1), tall);
  };
  /** @type {number[]} */
  const tallest = []; // highest bar of each pixel column; in a long text, several pieces share a column
  pieces.forEach((piece, at) => {
    const column = Math.floor(at * bar);
    tallest[column] = Math.max(tallest[column] ?? 0, share(piece, top));
  });
  brush.fillStyle = style.getPropertyValue("--hot");
  tallest.forEach((part, x) => stand(x, part, 0.35 + 0.65 * part));
  brush.fillStyle = style.getPropertyValue("--ink");
  if (pieces[chosen]) stand(Math.floor(chosen * bar), share(pieces[chosen], top), 1);
}
