"""The Python API: imports, the promises of TextGenerator, and bad input."""

import gc
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_lstmgen as kl
from keras_lstmgen.api import corpus_files
from keras_lstmgen.api.generation_options import GenerateArguments, GenerateOptions
from keras_lstmgen.cli import command_line
from keras_lstmgen.cli.parser import build_parser
from keras_lstmgen.config import recipe
from keras_lstmgen.data import readers, sources
from keras_lstmgen.generation import decoding_loop, text_generation


def fresh(code: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code in a new process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_package_imports_neither_tensorflow_nor_keras_nor_numpy() -> None:
    names = "{'tensorflow', 'keras', 'numpy', 'keras_lstmgen.cli'} & set(sys.modules)"
    done = fresh(f"import sys, keras_lstmgen as kl; print({names}, kl.TextGenerator.__name__, 'keras' in sys.modules)")
    assert (done.stdout, done.stderr) == ("set() TextGenerator False\n", "")


def test_every_public_name_can_be_imported_and_is_listed() -> None:
    assert set(kl.__all__) <= set(dir(kl))
    for name in kl.__all__:
        assert getattr(kl, name) is not None


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    for module in (kl, kl.layers):
        with pytest.raises(AttributeError, match="has no attribute 'GRU'"):
            module.GRU  # noqa: B018


def test_a_layer_is_imported_with_tensorflow_on_first_use_without_messages() -> None:
    done = fresh("import sys, keras_lstmgen as kl; kl.layers.LSTM(3); print('tensorflow' in sys.modules)")
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_user_error_is_a_value_error() -> None:
    assert issubclass(kl.UserError, ValueError)


# Generation: the results of the command line


@pytest.fixture(scope="module")
def lm(trained: Path) -> kl.TextGenerator:
    """The run on continuous text."""
    return kl.TextGenerator.load(trained)


@pytest.fixture(scope="module")
def lines(trained_lines: Path) -> kl.TextGenerator:
    """The run on lines in subwords."""
    return kl.TextGenerator.load(str(trained_lines))


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The standard output of a command."""
    capsys.readouterr()
    assert command_line.main(words) == 0
    return capsys.readouterr().out


OPTIONS: list[dict[str, Any]] = [
    {"max_new_tokens": 40, "temperature": 0.8, "seed": 7},
    {"max_new_tokens": 21, "top_k": 5, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3, "seed": 2**63},
    {"max_new_tokens": 9, "n": 3, "stop": ["e", "a b"], "seed": -4},
    {"max_new_tokens": 9, "presence_penalty": 1.5, "frequency_penalty": 0.5, "no_repeat_ngram": 2, "seed": 1},
    {"max_new_tokens": 9, "logit_bias": ["e=-inf", "#270=1.5"], "regex": "[a-z ]{3,7}"},
    {"max_new_tokens": 7, "beams": 4, "n": 2, "length_penalty": 0.6},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options))
def test_a_text_equals_the_output_of_the_command_with_the_same_options(
    lm: kl.TextGenerator, trained: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    words = ["generate", f"{trained}", "--prompt", "The "]
    for name, value in options.items():
        given = value if isinstance(value, list) else [value]
        option = f"--{name.replace('_', '-')}"
        words += [option, *map(str, given)] if name == "logit_bias" else [f"{option}={entry}" for entry in given]
    texts = lm.generate("The ", **options)
    expected = printed(capsys, *words)
    assert "\n\n".join(texts if "n" in options else [texts]) + "\n" == expected


def test_log_probabilities_equal_those_of_the_command(
    lines: kl.TextGenerator, trained_lines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", f"{trained_lines}", "--prompt", "the ", "--max-new-tokens", "5", "--logprobs", "2"]
    expected = [json.loads(line) for line in printed(capsys, *words).splitlines()]
    text = lines.generate("the ", max_new_tokens=5, logprobs=2)
    assert [{"text": 0, **entry} for entry in text.token_logprobs or []] == expected
    assert len(expected) == len(text.sample.tokens)
    assert lines.generate("the ", max_new_tokens=5).token_logprobs is None


def test_a_list_of_prompts_gives_the_text_of_each_prompt(lm: kl.TextGenerator) -> None:
    prompts = ["The ", "", "An object"]
    alone = [lm.generate(prompt, max_new_tokens=12, seed=3) for prompt in prompts]
    assert lm.generate(prompts, max_new_tokens=12, seed=3) == alone
    pairs = lm.generate(tuple(prompts), n=2, max_new_tokens=12, seed=3)
    assert [texts[0] for texts in pairs] == alone
    assert pairs[2][1] == lm.generate("An object", max_new_tokens=12, seed=4)
    assert lm.generate([]) == []
    assert len(set(alone)) > 1


@pytest.mark.parametrize(
    "options", [{"no_repeat_ngram": 2, "stop": "e"}, {"regex": "[a-z ]{3,7}"}, {"beams": 2}, {"logprobs": 1}], ids=str
)
def test_prompts_of_a_list_share_a_batch_and_do_not_change_each_other(
    lm: kl.TextGenerator, options: dict[str, Any]
) -> None:
    prompts = ["The ", "An object of the class"]
    alone = [lm.generate(prompt, max_new_tokens=9, **options) for prompt in prompts]
    together = lm.generate(prompts, max_new_tokens=9, **options)
    assert together == alone
    assert [text.token_logprobs for text in together] == [text.token_logprobs for text in alone]


@pytest.mark.parametrize(
    "options", [{"top_p": 0.9}, {"stop": "e", "temperature": 2.0}, {"no_repeat_ngram": 2}, {"beams": 2}], ids=str
)
def test_the_parts_of_a_stream_form_the_text(lm: kl.TextGenerator, options: dict[str, Any]) -> None:
    parts = list(lm.stream("The ", max_new_tokens=40, **options))
    assert all(parts)
    assert "".join(parts) == lm.generate("The ", max_new_tokens=40, **options)


def test_a_stream_can_be_abandoned_and_leaves_no_thread_and_no_lock(lm: kl.TextGenerator) -> None:
    whole = lm.generate("The ", max_new_tokens=100, seed=5)
    before = threading.active_count()
    abandoned = [lm.stream("The ", max_new_tokens=100, seed=5) for _ in range(3)]
    first = [next(stream) for stream in abandoned]
    assert len(first[0]) < len(whole)
    assert whole.startswith(first[0])
    assert threading.active_count() == before
    texts = list[str]()
    other = threading.Thread(target=lambda: texts.append(lm.generate("The ", max_new_tokens=100, seed=5)))
    other.start()
    other.join(60)
    assert texts == [whole]
    del abandoned
    gc.collect()
    assert "".join(lm.stream("The ", max_new_tokens=100, seed=5)) == whole


def test_streams_can_be_read_in_turns(lm: kl.TextGenerator) -> None:
    streams = [lm.stream("The ", max_new_tokens=40, seed=seed) for seed in (1, 2)]
    texts = ["", ""]
    for parts in itertools.zip_longest(*streams, fillvalue=""):
        texts = [text + part for text, part in zip(texts, parts, strict=True)]
    assert texts == [lm.generate("The ", max_new_tokens=40, seed=seed) for seed in (1, 2)]


def test_the_second_text_traces_nothing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = list[str]()

    def counted(*inputs: Any) -> Any:
        traces.append("trace")
        return decoding_loop.decode(*inputs)

    monkeypatch.setattr(text_generation, "decode", counted)
    generator = kl.TextGenerator.load(trained)
    generator.generate("The ", max_new_tokens=20)
    assert traces == ["trace"]
    generator.generate("Another prompt", max_new_tokens=33, n=2, seed=4, temperature=0.5)
    "".join(generator.stream("", max_new_tokens=5))
    assert traces == ["trace"]


def test_threads_get_the_texts_of_a_single_thread(trained: Path) -> None:
    generator = kl.TextGenerator.load(trained)
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda seed: generator.generate("The ", max_new_tokens=25, seed=seed), range(8)))
    assert texts == [generator.generate("The ", max_new_tokens=25, seed=seed) for seed in range(8)]
    assert len(set(texts)) == 8


def test_the_options_are_those_of_the_command() -> None:
    parser = build_parser()
    known = vars(parser.parse_args(["generate"]))
    options = {field.name for field in fields(GenerateOptions)}
    assert options <= set(known)
    others = {"verb", "runs", "run", "prompt", "prompt_file", "prompts", "json", "interactive", "output"}
    assert set(known) - options == others
    assert {*GenerateArguments.__annotations__, "n"} == options
    defaults = GenerateOptions()
    assert {name: known[name] for name in options if known[name] != getattr(defaults, name)} == {
        "stop": [], "logit_bias": [],
    }  # fmt: skip


# Training, evaluation, files


@pytest.fixture(scope="module")
def fitted(text: Path, settings: recipe.Recipe) -> tuple[kl.TextGenerator, Any]:
    """A generator that was trained in another thread on the string that ``trained`` reads from a file."""
    model, training = settings.model, settings.training
    generator = kl.TextGenerator(
        embedding_size=model.embedding_size, units=model.units, layers=model.layers, dropout=model.dropout,
        batch_size=np.int64(training.batch_size), window=training.window, **{"training.epochs": 9},
    )  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        return generator, pool.submit(generator.fit, text.read_text(encoding="utf-8"), epochs=2).result()


def test_fit_gives_the_losses_and_the_texts_of_the_command(
    fitted: tuple[kl.TextGenerator, Any], lm: kl.TextGenerator, trained: Path
) -> None:
    generator, history = fitted
    rows = json.loads((trained / "history.json").read_text())
    assert history.epoch == [0, 1]
    for name in ("loss", "val_loss"):
        assert history.history[name] == [row[name] for row in rows]
    assert generator.generate("The ", max_new_tokens=50, seed=9) == lm.generate("The ", max_new_tokens=50, seed=9)
    assert generator.model.count_params() == lm.model.count_params()
    assert generator.tokenizer.model == lm.tokenizer.model


def test_fit_of_a_loaded_generator_continues_as_the_command_does(trained: Path, text: Path, tmp_path: Path) -> None:
    new = text.read_text(encoding="utf-8")[::-1][:4000] + "é字"
    (tmp_path / "new.txt").write_text(new, encoding="utf-8")
    words = ["--init-from", f"{trained}", "--training.epochs", "1", "--runs", f"{tmp_path / 'runs'}"]
    assert command_line.main(["train", f"{tmp_path / 'new.txt'}", *words]) == 0
    generator = kl.TextGenerator.load(trained)
    before = generator.evaluate(new)["loss"]["nats_per_token"]
    history = generator.fit(new, epochs=1)
    rows = json.loads((tmp_path / "runs" / "new" / "history.json").read_text())
    assert (history.history["loss"], history.history["val_loss"]) == ([rows[0]["loss"]], [rows[0]["val_loss"]])
    assert generator.evaluate(new)["loss"]["nats_per_token"] < before
    assert generator.tokenizer.model == kl.TextGenerator.load(trained).tokenizer.model


def test_evaluate_equals_the_report_of_the_command(
    lm: kl.TextGenerator, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(trained, tmp_path / "run")
    expected = json.loads(printed(capsys, "evaluate", f"{copy}", "--samples", "1", "--sample-tokens", "9", "--json"))
    assert lm.evaluate(samples=1, sample_tokens=9) == expected
    (tmp_path / "text.txt").write_text("The text.\nAnother line é.\n" * 9, encoding="utf-8")
    words = ("evaluate", f"{copy}", f"{tmp_path / 'text.txt'}", "--samples", "0", "--json")
    expected = json.loads(printed(capsys, *words))
    assert lm.evaluate(tmp_path / "text.txt") == expected
    assert lm.evaluate("The text.\nAnother line é.\n" * 9) == expected | {"text": "texts"}


def test_a_list_is_evaluated_as_documents_of_the_run(lines: kl.TextGenerator) -> None:
    together = lines.evaluate("the moon is bright\nthe frost\n")
    assert lines.evaluate(["the moon is bright", "the frost"]) == together
    assert together["counts"]["documents"] == 2
    with pytest.raises(kl.UserError, match=r"corpus.documents = 'lines', which a list cannot represent"):
        lines.evaluate(["the moon\nis bright"])


def test_a_saved_generator_can_be_loaded_and_needs_no_temporary_folder(
    fitted: tuple[kl.TextGenerator, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, _ = fitted
    text = generator.generate("The ", max_new_tokens=20)
    monkeypatch.chdir(tmp_path)
    assert generator.save("deep/saved") == Path("deep/saved")
    assert kl.TextGenerator.load("deep/saved").generate("The ", max_new_tokens=20) == text
    shutil.copytree("deep/saved", "copy")
    with pytest.raises(kl.UserError, match="exists already; give another folder, or overwrite=True"):
        generator.save("copy")
    (tmp_path / "copy" / "old").touch()
    generator.save("copy", overwrite=True)
    assert not (tmp_path / "copy" / "old").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "copy"}


def test_save_never_replaces_other_files(lm: kl.TextGenerator, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("notes", "file", "notes/mine.txt", "file/below"):
        for write in (lm.save, lm.export):
            with pytest.raises(kl.UserError, match=r"is not replaced|cannot be created"):
                write(tmp_path / name, overwrite=True)
    assert (tmp_path / "notes" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def temporary_run(text: str) -> Path:
    """Train and use a generator that nothing refers to any more when this function has returned; return its folder."""
    generator = kl.TextGenerator(embedding_size=5, units=12, layers=1, batch_size=3, window=17)
    generator.fit(text.splitlines(), epochs=1)
    assert (generator._run_folder() / "model.keras").is_file()
    assert generator.evaluate(["A line.", "Two\nlines."])["counts"]["documents"] == 2
    return generator._run_folder()


def test_the_temporary_run_is_deleted_with_the_generator(text: Path) -> None:
    folder = temporary_run(text.read_text()[:3000])
    gc.collect()
    assert not folder.parent.exists()


def test_export_writes_verified_artifacts_and_can_be_repeated(lm: kl.TextGenerator, tmp_path: Path) -> None:
    results = lm.export(tmp_path / "out", formats=["tflite"], texts=2, tokens=5)
    assert list(results) == ["tflite"]
    result = results["tflite"]
    assert result.path == tmp_path / "out/tflite/model.tflite"
    assert result.path.stat().st_size == result.size
    assert (result.proof.identical, result.proof.tried) == (2, 2)
    lm.export(tmp_path / "out", formats=["tflite"], texts=1, tokens=3)
    assert json.loads((tmp_path / "out/export.json").read_text())["artifacts"]["tflite"]["tried"] == 1
    assert kl.TextGenerator.load(tmp_path / "out").generate("T", max_new_tokens=9) == lm.generate("T", max_new_tokens=9)


def test_inspect_draws_the_pictures_of_the_command(lm: kl.TextGenerator, trained: Path, tmp_path: Path) -> None:
    words = ["--prompt", "The object is", "--layer", "1", "--cell", "3", "--output", f"{tmp_path / 'other'}"]
    files = lm.inspect("The object is", tmp_path / "pictures", layer=1, cell=3)
    assert command_line.main(["inspect", f"{trained}", *words]) == 0
    assert {path.name for path in files} == {path.name for path in (tmp_path / "other").iterdir()}
    assert "forget.png" in {path.name for path in files}
    pages = [(tmp_path / name / "text.html").read_bytes() for name in ("pictures", "other")]
    assert pages[0] == pages[1]


DOCUMENT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(st.lists(DOCUMENT, min_size=1, max_size=5))
def test_the_documents_of_a_list_are_read_as_they_are(documents: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        values = corpus_files.training_corpus(iter(documents), Path(folder), {})
        settings = recipe.override(recipe.Recipe(), values).corpus
        (source,) = sources.resolve(settings)
        assert list(readers.READERS[settings.documents](source, settings.field)) == documents


def test_nothing_is_printed_unless_verbose(text: Path) -> None:
    code = f"""
import sys, keras_lstmgen as kl
text = open({str(text)!r}, encoding="utf-8").read()
lm = kl.TextGenerator(embedding_size=5, units=12, layers=1, batch_size=9, window=17)
lm.fit(text, epochs=1, verbose=int(sys.argv[1]))
lm.generate("The ", max_new_tokens=20)
lm.evaluate("The text. " * 9)
"""
    silent, verbose = (
        subprocess.run([sys.executable, "-c", code, level], capture_output=True, text=True) for level in "01"
    )
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")
    assert verbose.returncode == 0
    assert "parameters, char vocabulary" in verbose.stdout
    assert "val_loss" in verbose.stdout
    assert verbose.stderr == ""
