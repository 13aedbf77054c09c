"""Compare the texts of all artifacts and of Keras for a thousand prompts and seeds with mixed options.

    python -m benchmarks.parity saved_models/quickstart
    python -m benchmarks.parity saved_models/quickstart --texts 100 --tokens 50

The first hundred are written by the web page too, in Chromium, which npm brings. Exit status 1 where fewer than 999 in
1,000 texts are in all runtimes at once what Keras writes, to the last token, and where no browser starts. With
``--without-browser`` the page's modules write in Node instead, or nothing does.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks import measure, page
from benchmarks.measure import Table, publish
from keras_lstmgen.exporters import registry, saved_model, verify
from keras_lstmgen.exporters.verify import Case
from keras_lstmgen.generation import decoding_loop, sampling, text_generation
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import inference_step
from keras_lstmgen.models import run_directory as runs
from keras_lstmgen.utils.errors import UserError

FORMATS = {"SavedModel": "saved_model", "TFLite": "tflite", "ONNX": "onnx"}
STRINGS = "SavedModel, in strings"
IN_PAGE = 100  # texts that the web page writes too
NEEDED = 0.999  # part of the texts
ROWS = 64  # at once
PROMPTS = (0, 1, 2, 5, 12, 33)  # characters
SOURCE = 64  # tokens of the texts that prompts are cut from
# Each option has one of these values, drawn anew for every text.
VALUES: dict[str, tuple[float, ...]] = {
    "repetition_penalty": (1.0, 1.0, 1.1, 1.5, 0.9),
    "temperature": (1.0, 0.8, 0.5, 1.3, 0.0),
    "top_k": (0, 0, 5, 40),
    "top_p": (1.0, 1.0, 0.95, 0.7),
    "min_p": (0.0, 0.0, 0.02, 0.1),
}
Texts = list[list[int]]  # tokens


class Difference(NamedTuple):
    """Where a text leaves the one that Keras writes: at a token or, of a graph in strings, at a character."""

    case: int
    at: int  # the first token or character that differs
    keras: int | str  # "" behind the end of a text
    other: int | str
    logits: float | None  # between the two, in Keras; None of characters
    noise: float | None  # to the nearest number that lets Keras choose otherwise


def main(argv: Sequence[str] | None = None) -> int:
    """Write all, compare, and show."""
    arguments = _arguments(argv)
    try:
        run = runs.load(arguments.run)
    except UserError as error:
        print(f"benchmarks.parity: {error}", file=sys.stderr)
        return 2
    rows = compared(run, arguments.run, arguments.texts, arguments.tokens, arguments.without_browser)
    about = {"run": arguments.run.name, "texts": arguments.texts, "tokens": arguments.tokens, "rows": rows}
    publish("parity", about, [table(about), differences(run, rows)], arguments.results)
    if not arguments.without_browser and rows[-1]["runtime"] != page.BROWSER:
        print("benchmarks.parity: no browser wrote; --without-browser leaves it out", file=sys.stderr)
        return 1
    return 0 if everywhere(about) >= NEEDED * arguments.texts else 1


def everywhere(about: Mapping[str, Any]) -> int:
    """How many texts are those of Keras in all runtimes at once, so far as each wrote them."""
    return about["texts"] - len({one["case"] for entry in about["rows"] for one in entry["differences"]})


def compared(run: runs.Run, folder: Path, texts: int, tokens: int, without_browser: bool) -> list[dict[str, Any]]:
    """A row a runtime: how many of its texts are those of Keras."""
    prompts, cases = drawn(run, texts)
    expected = in_keras(run, cases, tokens)
    rows = [row(run, name, cases, expected, *_by_graph(run, name, folder, cases, tokens)) for name in FORMATS]
    call = saved_model.open_artifact(folder)
    strings, seconds = timed(lambda: in_strings(call, prompts, cases, tokens))
    rows.append(_row_of_strings(strings, [run.tokenizer.decode(_whole(run, text)) for text in expected], seconds))
    ways = [page.NODE] if without_browser else [page.BROWSER, page.NODE]
    (name, written), seconds = timed(lambda: page.texts(run, prompts[:IN_PAGE], cases[:IN_PAGE], tokens, ways))
    return [*rows, row(run, name, cases, expected, written, seconds)]


def _by_graph(run: runs.Run, name: str, folder: Path, cases: list[Case], tokens: int) -> tuple[Texts, float]:
    """What a format's graph writes, and the seconds that it took, opening left out."""
    call = registry.exporter(FORMATS[name]).open_artifact(folder)
    return timed(lambda: in_artifact(run, call, cases, tokens))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = measure.parser("parity", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="an exported run: its folder")
    parser.add_argument("--texts", type=int, default=1000, metavar="N")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="of each text")
    parser.add_argument("--without-browser", action="store_true", help="do without: the page writes in Node, or not")
    return parser.parse_args(argv)


def drawn(run: runs.Run, texts: int) -> tuple[list[str], list[Case]]:
    """Prompts out of what the model itself writes, and what is asked of them, drawn from a fixed seed."""
    dice = np.random.default_rng(0)
    written = [
        sample.text for sample in Generator(run).generate("", GenerationConfig(SOURCE), seeds=range(min(texts, ROWS)))
    ]
    prompts = [written[i % len(written)][i // len(written) :][: PROMPTS[i % len(PROMPTS)]] for i in range(texts)]
    seeds = dice.integers(0, 2**64, texts, dtype=np.uint64).tolist()
    cases = [
        Case(np.array(run.prompt_ids(prompt), np.int32), _options(dice), seed)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    return prompts, cases


def _options(dice: np.random.Generator) -> Options:
    return Options(**{name: dice.choice(values).item() for name, values in VALUES.items()})


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work gives, and how many seconds it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def in_keras(run: runs.Run, cases: list[Case], tokens: int) -> Texts:
    """What Keras writes."""
    generator = Generator(run)
    return _in_order(cases, lambda group: verify.keras_texts(run, generator.loop, group, tokens))


def in_artifact(run: runs.Run, call: Any, cases: list[Case], tokens: int) -> Texts:
    """What an artifact's graph ``generate`` writes."""
    return _in_order(cases, lambda group: verify.artifact_texts(run, call, group, tokens))


def _in_order(cases: list[Case], write: Callable[[list[Case]], Any]) -> Texts:
    """Write in groups of prompts of one length; give the texts in the order of the cases."""
    texts: dict[int, list[int]] = {}
    for group in verify.groups(cases, [ROWS]):
        texts |= zip(map(id, group), write(group).tolist(), strict=True)
    return [texts[id(case)] for case in cases]


def in_strings(call: Any, prompts: list[str], cases: list[Case], tokens: int) -> list[str]:
    """What ``serving_default`` writes, prompts of all lengths side by side."""
    texts: list[str] = []
    for start in range(0, len(cases), ROWS):
        part = cases[start : start + ROWS]
        seeds = np.array([case.seed for case in part], np.uint64).view(np.int64)
        inputs = {"seed": seeds, "max_new_tokens": np.full(len(part), tokens, np.int32)}
        words = np.array([prompt.encode() for prompt in prompts[start : start + ROWS]], object)
        options = sampling.rows([case.options for case in part])._asdict()
        texts += [text.decode() for text in call("serving_default", prompt=words, **inputs, **options)["text"]]
    return texts


def _whole(run: runs.Run, tokens: list[int]) -> list[int]:
    """The tokens up to the end token."""
    end = run.metadata.end_id
    return tokens[: tokens.index(end)] if end in tokens else tokens


def row(run: runs.Run, name: str, cases: list[Case], expected: Texts, texts: Texts, seconds: float) -> dict[str, Any]:
    """What is known of a runtime, which wrote all texts or the first of them, with every difference."""
    wrong = [i for i, text in enumerate(texts) if text != expected[i]]
    found = [difference(run, i, cases[i], expected[i], texts[i])._asdict() for i in wrong]
    counts = {"texts": len(texts), "identical": len(texts) - len(wrong)}
    return {"runtime": name, **counts, "seconds": seconds, "differences": found}


def _row_of_strings(found: list[str], expected: list[str], seconds: float) -> dict[str, Any]:
    wrong = [i for i, text in enumerate(found) if text != expected[i]]
    told = [_in_characters(i, expected[i], found[i])._asdict() for i in wrong]
    counts = {"texts": len(found), "identical": len(found) - len(wrong)}
    return {"runtime": STRINGS, **counts, "seconds": seconds, "differences": told}


def _in_characters(number: int, expected: str, found: str) -> Difference:
    """The first character that differs, or behind which one of the two texts ends."""
    pairs = itertools.zip_longest(expected, found, fillvalue="")
    at, (one, other) = next((t, pair) for t, pair in enumerate(pairs) if pair[0] != pair[1])
    return Difference(number, at, one, other, None, None)


def difference(run: runs.Run, number: int, case: Case, expected: list[int], found: list[int]) -> Difference:
    """The first step that differs, and how near the two candidates were."""
    at = next(t for t, (one, other) in enumerate(zip(expected, found, strict=True)) if one != other)
    read = [*case.prompt.tolist(), *expected[:at]]
    logits, seen = _before(run, read)
    noise = float(sampling.noise([case.seed], 1, at)[0, 0])
    gap = abs(float(logits[0, expected[at]] - logits[0, found[at]]))
    return Difference(number, at, expected[at], found[at], gap, _room(run, logits, seen, case, noise))


def _before(run: runs.Run, ids: list[int]) -> tuple[Any, Any]:
    """Logits [1, V] after ids, and which ids they were: bool [1, V]."""
    state = decoding_loop.initial_state(1, run.metadata.state_size, run.metadata.vocab_size).recurrent
    for token in ids:
        logits, state = inference_step.step(run.weights, tf.constant([token]), state)
    return logits, np.isin(np.arange(run.metadata.vocab_size), ids)[np.newaxis]


def _room(run: runs.Run, logits: Any, seen: Any, case: Case, noise: float) -> float:
    """How far the noise is from the nearest number with which another token is chosen; 1: none is."""
    allowed = np.flatnonzero(~text_generation.unsampled_mask(run))
    logits, seen = tf.gather(logits, allowed, axis=1), tf.gather(seen, allowed, axis=1)
    options = sampling.rows([case.options])
    ready = sampling.ready(options, len(allowed))

    def choice(number: float) -> int:
        drawn = sampling.ready_noise(np.array([[number]], np.float32), options)
        return int(sampling.choose(logits, drawn, seen, ready)[0, 0])

    changes = [far for far in (0.0, 1.0 - 2.0**-24) if choice(far) != choice(noise)]
    return min((_bisected(choice, noise, far) for far in changes), default=1.0)


def _bisected(choice: Callable[[float], int], here: float, there: float) -> float:
    """How far from ``here``, on the way ``there``, the choice changes."""
    begin, chosen = here, choice(here)
    for _ in range(30):
        middle = (here + there) / 2
        here, there = (middle, there) if choice(middle) == chosen else (here, middle)
    return abs(here - begin)


def table(about: Mapping[str, Any]) -> Table:
    """A row a runtime, and one for all of them at once."""
    title = f"{about['texts']:,} texts of {about['tokens']} tokens, every option mixed: as Keras writes them"
    cells = [
        [entry["runtime"], f"{entry['identical']:,} of {entry['texts']:,}", f"{entry['seconds']:.0f}"]
        for entry in about["rows"]
    ]
    cells.append(["in all of them at once", f"{everywhere(about):,} of {about['texts']:,}", ""])
    return Table(title, ("runtime", "identical", "seconds"), cells)


def differences(run: runs.Run, rows: Sequence[dict[str, Any]]) -> Table:
    """A row a text that differs, with the two candidates: tokens, or the characters of a graph in strings."""
    columns = ("runtime", "text", "first to differ", "Keras", "other", "logits apart", "noise from a change")

    def spelled(token: int | str) -> str:
        return repr(token if isinstance(token, str) else run.tokenizer.decode([token]))

    cells = [
        [
            entry["runtime"],
            str(one["case"]),
            f"{'character' if isinstance(one['keras'], str) else 'token'} {one['at']}",
            *(spelled(one[key]) for key in ("keras", "other")),
            *("" if one[key] is None else f"{one[key]:.1e}" for key in ("logits", "noise")),
        ]
        for entry in rows
        for one in entry["differences"]
    ]
    return Table("Texts that differ", columns, cells)


if __name__ == "__main__":
    sys.exit(main())
