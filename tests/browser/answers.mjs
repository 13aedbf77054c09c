// What the kit's modules make of the questions of test_browser_modules.py: node answers.mjs KIT < questions > answers
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const kit = (name) => import(pathToFileURL(`${process.argv[2]}/${name}`).href);
const [contract, tokenizer] = [await kit("contract.js"), await kit("tokenizer.js")];
const bytes = (base64) => new Uint8Array(Buffer.from(base64, "base64"));
const raised = (call) => {
  try {
    return [null, call()];
  } catch (error) {
    return [error.message, null];
  }
};

const ANSWERS = {
  noise: ({ seed, n, start }) => Array.from(contract.noise(BigInt(seed), n, start), (number) => number * 2 ** 24),
  choose: ({ logits, number, seen, options, sampled }) =>
    contract.choose(new Float32Array(bytes(logits).buffer), number, bytes(seen), options, bytes(sampled)),
  logprob: ({ logits, id }) => contract.logprob(new Float32Array(bytes(logits).buffer), id),
  options: ({ changes }) =>
    raised(() => {
      // JSON has no numbers that are none
      const named = Object.entries(changes).map(([name, value]) => [name, Number(value)]);
      contract.checkOptions({ ...contract.NEUTRAL, ...Object.fromEntries(named) });
    })[0],
  metadata: ({ json }) => raised(() => contract.readMetadata(json))[0],
  tokenizer: ({ model, texts, ids }) => {
    const [error, read] = raised(() => tokenizer.read(bytes(model)));
    if (error) return { error };
    const stream = (list) => {
      const { push, flush } = tokenizer.decoder(read);
      return [...list.map(push), flush()];
    };
    return { encoded: texts.map((one) => tokenizer.encode(read, one)), streams: ids.map(stream) };
  },
};

const questions = JSON.parse(await text(process.stdin));
process.stdout.write(JSON.stringify(questions.map(({ ask, ...question }) => ANSWERS[ask](question) ?? null)));
