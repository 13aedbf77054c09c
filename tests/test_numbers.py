"""Every number that can be typed is read strictly: what is none, too long or out of range is one line that names it."""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.cli import chat_terminal, command_line, console
from keras_lstmgen.cli.parser import build_parser
from keras_lstmgen.config import recipe
from keras_lstmgen.distribution import launcher, workers
from keras_lstmgen.generation import chat_session, logits_processors
from keras_lstmgen.system import cpu
from keras_lstmgen.tokenizers import tokenizer
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export import client, contract
from export.tf_serving import request
from export.tflite import generate as tflite

GOLDEN = Path(__file__).parent / "golden/run"
LONG = "9" * 5000
BAD = (LONG, f"-{LONG}", "nan", "inf", "-inf", "1e400", "٣", "²", "1_0", " 1", "0x1p3", "")
MORE = {"inspect": ["--prompt=a"], "prepare": ["--output=nowhere"], "export": [str(GOLDEN)], "evaluate": [str(GOLDEN)]}


def options(verb: str) -> list[str]:
    """The options of a verb that take a number."""
    verbs = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    actions: list[argparse.Action] = verbs[verb]._actions  # type: ignore[index]
    return [action.option_strings[0] for action in actions if action.option_strings and action.metavar in ("N", "X")]


@pytest.mark.parametrize("verb", ["prepare", "train", "generate", "chat", "evaluate", "inspect", "export"])
def test_every_option_with_a_number_refuses_what_is_none(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = options(verb)
    assert found
    for place, name in enumerate(found):
        for bad in BAD[place % 4 :: 4]:  # each value meets every fourth option: a command line takes 20 ms
            status = command_line.main([verb, *MORE.get(verb, []), f"{name}={bad}"])
            err = capsys.readouterr().err
            assert (status, err.count("\n"), len(err) < 300) == (2, 1, True), (name, bad[:9], err[:300])
            assert name.lstrip("-").rpartition(".")[2].replace("-", "_") in err.replace("-", "_"), (name, bad[:9], err)


@pytest.mark.parametrize("name", ["n", "max-new-tokens", "beams", "logprobs", "seed", "top-k"])
def test_a_number_that_no_machine_can_honour_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["generate", f"--{name}={2**64}"]) == 2
    assert re.fullmatch(rf"keras-lstmgen: .*{name.replace('-', '[-_]')}: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    "value", [LONG, f"-{LONG}", "nan", "inf", "-inf", "1e400", "٣", str(2**64), "0x7fffffffffffffff"]
)
@pytest.mark.parametrize("key", ["training.seed", "training.learning_rate", "model.units", "corpus.split_seed"])
def test_a_recipe_with_such_a_number_is_refused(tmp_path: Path, key: str, value: str) -> None:
    table, _, name = key.partition(".")
    path = tmp_path / "mine.toml"
    path.write_text(f"[{table}]\n{name} = {value}\n", encoding="utf-8")
    with pytest.raises(UserError) as refused:
        recipe.load(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < len(str(path)) + 200


@pytest.mark.parametrize(
    "word", [f"#{LONG}=1", "#٣=1", f"a={LONG}", "a=nan", "a=1e400", "a=٣", "a=inf", f"#5=-{LONG}", "#-1=1"]
)
def test_a_bias_with_such_an_id_or_value_is_refused(word: str) -> None:
    vocabulary = tokenizer.load(GOLDEN / "tokenizer.model")
    with pytest.raises(UserError, match=r"^--logit-bias '") as refused:
        logits_processors.compiled(logits_processors.HostOptions(logit_bias=(word,)), vocabulary, (), 2)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, LONG, "nan", "٣", "1e5"])
def test_a_seed_of_more_than_64_bits_is_refused_and_does_not_wrap(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"64 bits|20 digits|not a whole number"):
        numerals.parse_seed(str(seed))
    with pytest.raises(argparse.ArgumentTypeError, match=r"64 bits|20 digits"):
        client.seed(str(seed))


@pytest.mark.parametrize("seed", [0, -1, 2**64 - 1, -(2**63)])
def test_every_seed_of_64_bits_is_read(seed: int) -> None:
    assert (numerals.parse_seed(str(seed)), client.seed(str(seed))) == (seed, seed)


def test_a_chat_keeps_its_seed_where_a_new_one_is_none() -> None:
    session = chat_session.ChatSession(model=None, seed=7)  # type: ignore[arg-type]
    for word in (LONG, str(2**64), "nan", "٣"):
        chat_terminal._run_command(session, f"/seed {word}")
        assert session.seed == 7
    chat_terminal._run_command(session, f"/seed {2**64 - 1}")
    assert session.seed == 2**64 - 1


@pytest.mark.parametrize("bad", BAD)
def test_every_client_in_python_refuses_such_a_number(
    bad: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def of_artifact() -> int:
        return client.main(tflite.load, "a TFLite file")

    def of_server() -> int:
        return request.main(lambda *_: {}, "REST", "http://localhost")

    programs: list[tuple[Callable[[], int], list[str]]] = [
        (of_artifact, [str(GOLDEN / "tflite/model.tflite")]), (of_server, []),
    ]  # fmt: skip
    names = ["seed", "n", "max-new-tokens", *(name.replace("_", "-") for name in vars(contract.Options()))]
    for program, words in programs:
        for name in [*names, *(["beams", "length-penalty"] if words else [])]:
            monkeypatch.setattr(sys, "argv", ["generate.py", *words, f"--{name}={bad}"])
            assert program() == 2
            out, err = capsys.readouterr()
            assert (out, err.count("\n"), len(err) < 300) == ("", 1, True), (name, bad[:9], err[:300])
            assert name.replace("-", "_") in err.replace("-", "_")


def test_a_limit_of_any_length_takes_no_memory() -> None:
    metadata = contract.Metadata(3, 2, 1, 2, ())
    texts = contract.generate(
        lambda _, state: (state.repeat(2)[:3], state), [1], metadata, contract.Options(temperature=0), seed=0,
        max_new_tokens=2**60,
    )  # fmt: skip
    assert next(texts) == 0


@pytest.mark.parametrize(
    ("port", "index"), [(port, 0) for port in (LONG, "nan", "-1", "٣", "0", "65536")]
    + [("5000", index) for index in (-1, float("inf"), float("nan"), LONG, "٣", 0.5, 9)],
)  # fmt: skip
def test_a_variable_that_names_the_workers_is_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, port: str, index: Any
) -> None:
    about = {"cluster": {"worker": [f"127.0.0.1:{port}", "127.0.0.1:5001"]}, "task": {"type": "worker", "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(about))
    with pytest.raises(UserError, match=r"^TF_CONFIG: invalid .*$") as refused:
        workers._read_config()
    assert len(str(refused.value)) < 300


def test_an_empty_variable_counts_as_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", "")
    assert workers._read_config() == ([""], 0)
    monkeypatch.setattr(launcher, "report_idle_gpus", lambda _: 1 / 0)  # which comes next
    with pytest.raises(ZeroDivisionError):
        launcher.launch([], 2)


@pytest.mark.parametrize("value", [LONG, "-5", "nan", "1e400", "٣"])
def test_a_variable_with_a_number_of_threads_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", value)
    with pytest.raises(UserError, match=r"^TF_NUM_INTRAOP_THREADS: '.{1,40}' is not a number of threads"):
        cpu.configure()


@pytest.mark.parametrize("value", [LONG, "²", "nan", "-5"])
def test_a_variable_with_a_width_that_is_none_is_left_aside(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("COLUMNS", value)
    assert console.console(stderr=True).width > 0
