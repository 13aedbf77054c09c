"""Where nothing is left to generate, a line says so before any work; options that leave nothing end the text."""

import json
import re
import shutil
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, token_cache
from keras_lstmgen.generation import beam_search, decoding_loop, text_generation
from keras_lstmgen.generation.logits_processors import HostOptions
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.tokenizers.tokenizer import END, NEWLINE, START, UNK
from keras_lstmgen.training import input_pipeline
from keras_lstmgen.utils.errors import UserError

GOLDEN = Path(__file__).parent / "golden" / "run"


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Return the one line that a command is refused with."""
    capsys.readouterr()
    assert command_line.main([str(word) for word in words]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"keras-lstmgen: [^\n]+\n", err), err
    return err


@pytest.mark.parametrize("documents", ["stream", "lines", "blocks", "files"])
@pytest.mark.parametrize("between", [" ", "\n", "\n\n"])
def test_a_text_of_unknown_words_alone_is_refused_before_training(
    documents: str, between: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [letter * 1000 + str(number) for number in range(2) for letter in string.ascii_letters][:90]
    (tmp_path / "long.txt").write_text(between.join(words) + "\n", encoding="utf-8")
    shutil.copy(tmp_path / "long.txt", tmp_path / "held_out.txt")
    said = refused(
        capsys, "train", tmp_path / "long.txt", "--runs", tmp_path / "runs", "--tokenizer.type", "word",
        "--corpus.documents", documents, "--model.units", "7", "--training.window", "5", "--training.batch_size", "3",
        "--training.epochs", "1", "--corpus.validation", tmp_path / "held_out.txt",
    )  # fmt: skip
    assert "leaves nothing to generate" in said
    assert "another tokenizer.type" in said
    assert [path for path in (tmp_path / "runs").glob("*") if path.name != ".encoded"] == []


def test_ids_that_were_made_before_are_refused_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = run_directory.load(GOLDEN).tokenizer
    ids = np.full(500, UNK, np.int32)
    counts: dict[str, dict[str, int]] = {split: dict.fromkeys(token_cache.COUNTS, 500) for split in token_cache.SPLITS}
    found = token_cache.Encoded(words, ids, ids, counts, NEWLINE, END, tuple(range(words.vocab_size)))
    settings = recipe.override(recipe.Recipe(), {"training.window": 5, "training.batch_size": 3, "model.units": 7})
    for left in ((), (END,), (NEWLINE, END)):
        never = tuple(token for token in found.unsampled_ids if token not in left)
        monkeypatch.setattr(prepared_corpus, "load", lambda _, never=never: replace(found, unsampled_ids=never))
        with pytest.raises(UserError, match="leaves nothing to generate"):
            input_pipeline.load(settings, tmp_path)


@pytest.mark.parametrize("verb", ["generate", "chat", "evaluate", "inspect", "export"])
def test_a_run_that_has_nothing_to_generate_is_refused(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "made before"))
    about = json.loads((folder / run_directory.METADATA).read_text(encoding="utf-8"))
    about["unsampled_ids"] = list(range(about["vocab_size"]))
    (folder / run_directory.METADATA).write_text(json.dumps(about), encoding="utf-8")
    options = ["--prompt", "a"] if verb == "inspect" else []
    assert f"{folder}: the vocabulary leaves nothing to generate" in refused(capsys, verb, folder, *options)


# Options


@pytest.fixture(scope="module")
def model() -> run_directory.Run:
    return run_directory.load(GOLDEN)


def test_a_bias_that_bans_everything_ends_the_text_with_a_note(model: run_directory.Run) -> None:
    banned = HostOptions(logit_bias=tuple(f"#{token}=-inf" for token in range(model.metadata.vocab_size)))
    limits = text_generation.compile_constraints(model, banned)
    drawn = Generator(model).generate("The ", GenerationConfig(5, host=banned), seeds=[0, 1])
    found = text_generation.search(
        model,
        decoding_loop.compile_step(model.weights),
        "The ",
        beam_search.BeamSearchConfig(3, 0.0, 5),
        constraints=limits,
    )
    assert len(found) == 1
    for sample in (*drawn, *found):
        assert (sample.text, sample.finish_reason) == ("", "stop")
        assert sample.note == "all tokens are excluded by --logit-bias"


@pytest.mark.parametrize("options", [Options(top_k=2**31 - 1), Options(top_k=3, top_p=0.5, min_p=1.0), Options()])
def test_where_fewer_are_left_than_top_k_asks_for_all_of_them_may_be_drawn(
    model: run_directory.Run, options: Options
) -> None:
    kept = [int(token) for token in model.tokenizer.encode("ab")]
    never = {UNK, START, *model.metadata.unsampled_ids, *kept}
    banned = [f"#{token}=-inf" for token in range(model.metadata.vocab_size) if token not in never]
    host = HostOptions(logit_bias=tuple(banned))
    limits = text_generation.compile_constraints(model, host)
    samples: list[Any] = Generator(model).generate("The ", GenerationConfig(30, options, host=host), seeds=[0, 1])
    assert all(sample.length == 30 and set(sample.text) <= {"a", "b"} for sample in samples)
    found = text_generation.search(
        model,
        decoding_loop.compile_step(model.weights),
        "The ",
        beam_search.BeamSearchConfig(99, 0.0, 3),
        constraints=limits,
    )
    assert sorted(sample.text for sample in found) == [a + b + c for a in "ab" for b in "ab" for c in "ab"]
