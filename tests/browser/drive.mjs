// A person at the page, in a real browser: node drive.mjs < tasks > answers, for tests/chromium.py
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";
import { text } from "node:stream/consumers";

const ONLY_HERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"; // no other host can be reached
const TIMEOUT = 120_000; // milliseconds, for a machine that does much else
const PHONE = { width: 360, height: 740, isMobile: true, hasTouch: true };
const IDLE = () => document.querySelector("#go").textContent === "Write";

const browser = await puppeteer.launch({
  executablePath: process.env.PUPPETEER_EXECUTABLE_PATH ?? (await chromium.executablePath()),
  args: [...chromium.args, ONLY_HERE],
  headless: "shell",
});

/** Open a page and wait for its model, unless it is known to have none. */
async function open(url, { viewport = { width: 1200, height: 800 }, scheme = "light", broken = false } = {}) {
  const page = await browser.newPage();
  page.setDefaultTimeout(TIMEOUT);
  const trouble = [];
  page.on("pageerror", (error) => trouble.push(error.message));
  page.on("console", (message) => trouble.push(message.text()));
  page.on("requestfailed", (request) => trouble.push(request.url()));
  await page.setViewport(viewport);
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(url);
  await page.waitForSelector(broken ? "#error:not(:empty)" : "#go:not([disabled])");
  return { page, trouble };
}

async function fill(page, name, value) {
  await page.focus(`#${name}`);
  await page.keyboard.down("Control");
  await page.keyboard.press("a");
  await page.keyboard.up("Control");
  await page.keyboard.press("Backspace");
  await page.keyboard.type(`${value}`);
}

/** Type what is not there yet. */
async function fillAll(page, values) {
  await page.$eval("#options", (options) => (options.open = true));
  for (const [name, value] of Object.entries(values)) {
    if ((await page.$eval(`#${name}`, (one) => one.value)) !== `${value}`) await fill(page, name, value);
  }
}

async function write(page, values) {
  await fillAll(page, values);
  await page.click("#go");
  await page.waitForFunction(IDLE);
  return page.evaluate(() => {
    const of = (selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent).join("");
    const [prompt, text] = [of("#text .prompt"), of("#text .written")];
    return { prompt, text, status: of("#status"), error: of("#error") };
  });
}

/** In the page: what a worker writes, as tokens. */
function tokensOf(worker, request) {
  return new Promise((resolve, reject) => {
    const tokens = [];
    worker.onmessage = ({ data }) => {
      if (data.error) reject(new Error(data.error));
      if (data.done) resolve(tokens);
      for (const { id, written } of data.pieces ?? []) if (written && id !== null) tokens.push(id);
      if (data.pieces) worker.postMessage({ seen: true });
    };
    worker.postMessage({ write: request });
  });
}

const readout = (page) => page.$eval("#readout", (one) => one.textContent);

const TASKS = {
  /** Texts, one after another on one page. */
  async texts({ url, requests }) {
    const { page, trouble } = await open(url);
    const ready = await page.evaluate(() => performance.getEntriesByName("ready")[0].startTime);
    const about = await page.$eval("#about", (one) => one.textContent);
    const written = [];
    for (const request of requests) written.push(await write(page, request));
    return { ready, about, written, trouble };
  },

  /** How long a page took to be ready, in milliseconds, time after time; what a browser keeps is there from the second. */
  async loads({ url, times }) {
    const found = [];
    for (let i = 0; i < times; i++) {
      const { page } = await open(url);
      found.push(await page.evaluate(() => performance.getEntriesByName("ready")[0].startTime));
      await page.close();
    }
    return found;
  },

  /** The tokens of many texts, by the page's own worker. */
  async tokens({ url, requests }) {
    const { page } = await open(url);
    const worker = await page.evaluateHandle(() => new Worker("worker.js", { type: "module" }));
    const written = [];
    for (const request of requests) written.push(await page.evaluate(tokensOf, worker, request));
    return written;
  },

  /** A long text, and the ways to stop it; how often the page's own turn came in half a second of it. */
  async stop({ url }) {
    const { page } = await open(url);
    const stops = [() => page.click("#go"), () => page.keyboard.press("Escape")];
    const found = [];
    for (const stop of stops) {
      await fillAll(page, { length: 65536 });
      await page.click("#go");
      const [turns, label] = await page.evaluate(async () => {
        // Whoever types Chinese leaves a choice of characters with that key.
        document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", isComposing: true }));
        let turns = 0;
        for (const end = performance.now() + 500; performance.now() < end; turns++) {
          await new Promise((resolve) => setTimeout(resolve));
        }
        return [turns, document.querySelector("#go").textContent];
      });
      await stop();
      await page.waitForFunction(IDLE);
      const size = await page.$eval("#text", (one) => one.textContent.length);
      found.push({ turns, label, size, status: await page.$eval("#status", (one) => one.textContent) });
    }
    return found;
  },

  /** From the first key to the last value without a mouse, and the same values by pointing. */
  async keyboard({ url, prompt, seed, length }) {
    const { page } = await open(url);
    const reached = [];
    for (let i = 0; i < 30; i++) {
      await page.keyboard.press("Tab");
      reached.push(await page.evaluate(() => document.activeElement.id || document.activeElement.tagName));
      if (reached.at(-1) === "strip") break;
    }
    await fillAll(page, { seed, length, prompt });
    await page.keyboard.down("Control");
    await page.keyboard.press("Enter");
    await page.keyboard.up("Control");
    await page.waitForFunction(IDLE);
    await page.focus("#strip");
    await page.keyboard.press("Home");
    const told = [await readout(page)];
    const pieces = await page.$eval("#strip", (one) => Number(one.ariaValueMax));
    while (told.length < pieces) {
      await page.keyboard.press("ArrowRight");
      told.push(await readout(page));
    }
    await page.keyboard.press("End");
    const last = [await readout(page), await page.$eval("#strip", (one) => [one.ariaValueText, one.ariaValueNow])];
    await page.hover("#text span:nth-child(4)");
    const hovered = await readout(page);
    const { x, y, height } = await (await page.$("#strip")).boundingBox();
    await page.mouse.move(x + 1, y + height / 2);
    return { reached, told, last, hovered, pointed: await readout(page) };
  },

  /** What a screen reader is told of. */
  async names({ url }) {
    const { page } = await open(url);
    const found = [];
    const walk = ({ role, name, children = [] }) => {
      found.push({ role, name });
      children.forEach(walk);
    };
    walk(await page.accessibility.snapshot());
    return found;
  },

  /** On a phone, after a text longer than its screen. */
  async phone({ url, scheme }) {
    const { page } = await open(url, { viewport: PHONE, scheme });
    await page.click("#go");
    await page.waitForFunction(IDLE);
    await page.tap("#text span:nth-last-child(3)");
    const told = await readout(page);
    return page.evaluate((said) => {
      const colours = ["body", ".hint", "#status", "#go"].map((selector) => {
        const style = getComputedStyle(document.querySelector(selector));
        const behind = selector === "#go" ? style : getComputedStyle(document.body);
        return [style.color, behind.backgroundColor];
      });
      const { top, bottom } = document.querySelector("#go").getBoundingClientRect();
      const [width, scrolled] = [document.documentElement.scrollWidth, scrollY];
      const end = document.querySelector("#text").lastElementChild.getBoundingClientRect().bottom;
      return { told: said, colours, width, scrolled, top, bottom, end };
    }, told);
  },

  /** Write pressed twice; once more with the seed kept; and once with a seed that is typed. */
  async again({ url }) {
    const { page } = await open(url);
    const found = [];
    const press = async () => {
      await page.click("#go");
      await page.waitForFunction(IDLE);
      found.push(
        await page.evaluate(() => {
          const text = [...document.querySelectorAll("#text .written")].map((one) => one.textContent).join("");
          return { text, seed: document.querySelector("#seed").value, fresh: document.querySelector("#fresh").checked };
        }),
      );
    };
    await fillAll(page, { length: 40 });
    await press();
    await press();
    await page.click("#fresh");
    await press();
    await page.click("#fresh");
    await fill(page, "seed", "7");
    await press();
    return found;
  },

  /** Options that cannot be, one after another, and then a text all the same. */
  async wrong({ url, requests }) {
    const { page } = await open(url);
    const written = [];
    for (const request of requests) written.push(await write(page, request));
    return written;
  },

  async broken({ url }) {
    const { page } = await open(url, { broken: true });
    return page.evaluate(() => [document.querySelector("#error").textContent, document.querySelector("#go").disabled]);
  },
};

const answers = {};
for (const { name, task, ...rest } of JSON.parse(await text(process.stdin))) {
  answers[name] = await TASKS[task](rest).catch((error) => ({ failed: error.stack }));
  for (const done of (await browser.pages()).slice(1)) await done.close();
}
await browser.close();
process.stdout.write(JSON.stringify(answers));
