"""The web page in a real browser, cut off from all other hosts: what is typed is gone on with as Keras does."""

import contextlib
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_lstmgen.evaluation.likelihood import stream_nll
from keras_lstmgen.generation import sampling
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.system import cpu

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests are no package that is installed
from tests import chromium

pytestmark = pytest.mark.slow

PROMPTS = {"trained": ("The class", "", "a 月b", "x\n\n  y"), "trained_lines": ("床前明月", "the ", "", "moon字")}
MIXES: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.3},
    {"temperature": 0.7, "top_k": 5},
    {"top_p": 0.85},
    {"min_p": 0.1, "repetition_penalty": 1.7, "temperature": 1.3},
    {"repetition_penalty": 0.8, "temperature": 2.5, "top_k": 30, "top_p": 0.97, "min_p": 0.01},
    {"temperature": 1000000},
)
SEEDS = (0, -1, 7, 2**32 + 5, 2**64 - 3)
N = 40  # tokens of a text
NEUTRAL = vars(sampling.Options())
PROMPT, SEED, LENGTH = "The class", 3, 12  # of the text whose values are asked for one by one
CHINESE = "霜霜霜，床前明月光，疑是地上霜 moon"  # known to the vocabulary, and spelled in bytes
WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"temperature": -1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"repetition_penalty": ""}, "repetition_penalty"),
    ({"length": 0}, "length"),
    ({"seed": "seven"}, "seed"),
)


def requests(fixture: str) -> list[dict[str, Any]]:
    """What is typed for each text: every mix of options, with the prompts and seeds in turn."""
    prompts = PROMPTS[fixture]
    return [
        {"prompt": prompts[i % len(prompts)], "seed": str(SEEDS[i % len(SEEDS)]), "length": N, **NEUTRAL, **mix}
        for i, mix in enumerate(MIXES)
    ]


def tasks(base: str, file: str) -> list[dict[str, Any]]:
    """All that is done in the browser, which is started once."""
    url, seven = f"{base}/trained/web/", {**NEUTRAL, "seed": 7, "length": 5}
    return [
        *(
            {"name": name, "task": "texts", "url": f"{base}/{name}/web/", "requests": requests(name)}
            for name in PROMPTS
        ),
        {"name": "loads", "task": "loads", "url": url, "times": 3},
        {"name": "stop", "task": "stop", "url": url},
        {"name": "keyboard", "task": "keyboard", "url": url, "prompt": PROMPT, "seed": SEED, "length": LENGTH},
        {"name": "chinese", "task": "keyboard", "url": f"{base}/trained_lines/web/", **seven, "prompt": CHINESE},
        {"name": "names", "task": "names", "url": url},
        {"name": "light", "task": "phone", "url": url, "scheme": "light"},
        {"name": "dark", "task": "phone", "url": url, "scheme": "dark"},
        {"name": "wrong", "task": "wrong", "url": url, "requests": [*(seven | bad for bad, _ in WRONG), seven]},
        {"name": "again", "task": "again", "url": url},
        {"name": "broken", "task": "broken", "url": f"{base}/broken/"},
        {"name": "cut", "task": "broken", "url": f"{base}/cut/"},
        {"name": "file", "task": "broken", "url": file},
    ]


@pytest.fixture(scope="module")
def browser(pages: Path, browser_kit: Path) -> dict[str, Any]:
    """What happened in the browser, by task."""
    shutil.copytree(pages / "trained/web", pages / "broken")
    (pages / "broken/model.onnx").unlink()
    shutil.copytree(pages / "trained/web", pages / "cut")
    (pages / "cut/strip.js").unlink()
    with chromium.served(pages) as base:
        return chromium.drive(browser_kit, tasks(base, (pages / "trained/web/index.html").as_uri()))


@pytest.mark.parametrize("name", PROMPTS)
def test_what_is_typed_is_gone_on_with_as_keras_does(browser: dict[str, Any], pages: Path, name: str) -> None:
    model = run_directory.load(pages / name)
    generator = Generator(model)
    for request, found in zip(requests(name), browser[name]["written"], strict=True):
        options = sampling.Options(**{option: request[option] for option in NEUTRAL})
        prompt, seeds = request["prompt"], [int(request["seed"])]
        [sample] = generator.generate(prompt, GenerationConfig(N, options), seeds=seeds)
        assert (found["prompt"], found["text"]) == (prompt, sample.text), request
        assert found["error"] == ""
        reason = {"stop": "ended by the model", "length": "length reached"}[sample.finish_reason]
        assert re.fullmatch(rf"{len(sample.text)} characters(, [\d,]+ per second)?, {reason}\.", found["status"])
    assert len({found["text"] for found in browser[name]["written"]}) > len(MIXES) / 2


def test_the_page_is_quiet_and_says_what_it_runs(browser: dict[str, Any], pages: Path) -> None:
    for name in PROMPTS:
        assert browser[name]["trouble"] == []
    metadata = run_directory.load_metadata(pages / "trained")
    assert f"2 × 12 units, {metadata.vocab_size} tokens" in browser["trained"]["about"]


def test_the_page_is_ready_in_less_than_two_seconds(
    browser: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The best of three; where four others wait for each core, a second says nothing of the page."""
    waiting, cores = os.getloadavg()[0], cpu.available()
    with capsys.disabled():
        told = ", ".join(f"{one / 1000:.2f}" for one in browser["loads"])
        print(f"\nthe page was ready after {told} s; load {waiting:.1f} on {cores} cores")
    if waiting > 4 * cores:
        pytest.skip(f"the machine is too busy to time a page: load {waiting:.1f} on {cores} cores")
    assert min(browser["loads"]) < 2000


def test_a_text_stops_when_it_is_told_to_and_not_by_an_input_method_and_the_page_can_be_used_meanwhile(
    browser: dict[str, Any],
) -> None:
    for found in browser["stop"]:
        assert found["label"] == "Stop"
        assert 0 < found["size"] < 65536
        assert found["status"].endswith(", stopped.")
        assert found["turns"] > 5


def test_all_can_be_done_by_keyboard(browser: dict[str, Any]) -> None:
    names = [*NEUTRAL, "length", "seed"]
    reached = browser["keyboard"]["reached"]
    assert {"prompt", *names, "fresh", "go", "strip"} <= set(reached)
    assert reached.index("prompt") < reached.index("temperature") < reached.index("go") < reached.index("strip")
    assert sum(name == "INPUT" for name in reached) == len(names) - 1  # the sliders; the seed has none


def test_the_strip_tells_how_surprised_the_model_was_at_each_character(browser: dict[str, Any], pages: Path) -> None:
    model, told = run_directory.load(pages / "trained"), browser["keyboard"]["told"]
    [sample] = Generator(model).generate(PROMPT, GenerationConfig(LENGTH), seeds=[SEED])
    text = PROMPT + sample.text
    ids = np.array(model.tokenizer.encode(text), np.int32)
    assert len(told) == len(text) == len(ids)
    assert told[0] == "“T”: not predicted, because the text begins here"
    sums = [0.0, *(stream_nll(model.weights, ids[: n + 1], 1) for n in range(1, len(ids)))]
    for character, line, nats in zip(text[1:], told[1:], np.diff(sums), strict=True):
        name = {" ": "A space", "\n": "A new line"}.get(character, f"“{character}”")
        said = re.fullmatch(rf"{re.escape(name)}: probability ([\d.,]+) %, surprise ([\d.]+) nats", line)
        assert said, line
        assert float(said[2]) == pytest.approx(nats, abs=0.006)
        assert float(said[1].replace(",", "")) == pytest.approx(100 * math.exp(-nats), rel=0.06)


def test_the_strip_tells_of_a_chinese_character_what_all_its_bytes_surprised(
    browser: dict[str, Any], pages: Path
) -> None:
    model = run_directory.load(pages / "trained_lines")
    assert model.tokenizer.id_of("霜") is None
    ids = model.prompt_ids(CHINESE)
    logprobs = tf.nn.log_softmax(model.model(np.array([ids[:-1]]), training=False)[0]).numpy()
    texts, surprises, spelled, nats = list[str](), list[float](), b"", 0.0
    for token, row in zip(ids[1:], logprobs, strict=True):
        spelled, nats = spelled + model.tokenizer.piece_bytes(token), nats - float(row[token])
        with contextlib.suppress(UnicodeDecodeError):
            texts.append(spelled.decode())
            surprises.append(nats)
            spelled, nats = b"", 0.0
    assert "".join(texts) == CHINESE
    form = r"(?:“(.*)”|A space): .*, surprise ([\d.]+) nats"
    told = [said for line in browser["chinese"]["told"][: len(texts)] if (said := re.fullmatch(form, line))]
    assert [said[1] or " " for said in told] == texts
    assert [float(said[2]) for said in told] == pytest.approx(surprises, abs=0.006)


def test_pointing_tells_what_the_keys_tell(browser: dict[str, Any]) -> None:
    found = browser["keyboard"]
    assert found["last"] == [found["told"][-1], [found["told"][-1], str(len(found["told"]))]]
    assert (found["hovered"], found["pointed"]) == (found["told"][3], found["told"][0])


def test_every_control_has_a_name(browser: dict[str, Any]) -> None:
    controls = {"textbox", "spinbutton", "slider", "button", "checkbox"}
    names = [(entry["role"], entry["name"]) for entry in browser["names"] if entry["role"] in controls]
    assert all(name for _, name in names)
    assert (
        len(names) == len(set(names)) == 1 + 2 * 6 + 2 + 2
    )  # prompt, numbers and sliders, seed and strip, box and button


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_it_fits_follows_the_text_and_can_be_read(browser: dict[str, Any], scheme: str) -> None:
    """Contrast as WCAG has it for text: at least 4.5."""
    found = browser[scheme]
    assert found["width"] == 360
    assert found["scrolled"] > 0
    assert 0 < found["end"] <= found["top"] < found["bottom"] < 740
    assert ", surprise " in found["told"]
    for colour, behind in found["colours"]:
        assert contrast(colour, behind) >= 4.5, (colour, behind)
    assert (luminance(found["colours"][0][1]) < 0.1) == (scheme == "dark")


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Of a colour such as ``rgb(23, 21, 19)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_an_option_out_of_range_is_a_line_that_names_it_and_the_next_text_is_written(browser: dict[str, Any]) -> None:
    *refused, written = browser["wrong"]
    for (_, name), found in zip(WRONG, refused, strict=True):
        assert found["error"].startswith(f"{name} is out of range: it must be "), found
        assert found["text"] == ""
    assert (written["error"], len(written["text"])) == ("", 5)


def test_a_model_that_is_not_there_is_a_line(browser: dict[str, Any]) -> None:
    error, disabled = browser["broken"]
    assert error.startswith("model.onnx cannot be loaded (404")
    assert disabled


def test_each_press_of_write_draws_a_new_seed_and_shows_it_unless_it_is_kept_or_typed(
    browser: dict[str, Any], pages: Path
) -> None:
    first, second, kept, typed = browser["again"]
    assert first["seed"] != second["seed"]
    assert first["text"] != second["text"]
    assert (kept["seed"], kept["text"]) == (second["seed"], second["text"])
    assert typed["seed"] == "7"
    assert [one["fresh"] for one in browser["again"]] == [True, True, False, False]
    model = run_directory.load(pages / "trained")
    for one in browser["again"]:
        [sample] = Generator(model).generate("", GenerationConfig(N), seeds=[int(one["seed"])])
        assert one["text"] == sample.text


def test_a_page_opened_as_a_file_says_to_serve_it(browser: dict[str, Any]) -> None:
    error, disabled = browser["file"]
    assert error.startswith("This page was opened as a file")
    assert "python3 -m http.server" in error
    assert disabled


def test_a_page_whose_code_is_not_all_there_says_so(browser: dict[str, Any]) -> None:
    error, disabled = browser["cut"]
    assert error.startswith("page.js, or a file that it imports, cannot be loaded")
    assert disabled


def test_the_types_of_the_page_hold(browser_kit: Path) -> None:
    """By the kit's own command, which finds a mistake where there is one."""
    check = ["npm", "run", "--silent", "check"]
    done = subprocess.run(check, cwd=browser_kit, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    module = browser_kit / "strip.js"
    module.write_text(module.read_text(encoding="utf-8") + "\n/** @type {number} */ export const wrong = 'x';\n")
    done = subprocess.run(check, cwd=browser_kit, capture_output=True, text=True)
    assert "TS2322" in done.stdout
    assert done.returncode != 0
