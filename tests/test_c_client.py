"""The C client writes what Keras writes, byte for byte, and no file ends it but by one line."""

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.config import recipe
from keras_lstmgen.exporters import export_run
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
from export import contract, tokenizer
from export.tflite.generate import load, metadata_buffers
from tests import c_client

pytestmark = pytest.mark.slow

Result = subprocess.CompletedProcess[bytes]
Client = Callable[..., Result]
MODEL = "tflite/model.tflite"
GOLDEN = Path(__file__).parent / "golden" / "run"

MIXES: tuple[dict[str, float], ...] = (
    {},
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.3},
    {"temperature": 0.7, "top_k": 5},
    {"top_p": 0.85},
    {"min_p": 0.1, "repetition_penalty": 1.7, "temperature": 1.3},
    {"repetition_penalty": 0.8, "temperature": 2.5, "top_k": 30, "top_p": 0.97, "min_p": 0.01},
    {"temperature": 1e6},  # every id is as likely as the next, the bytes among them
    {"temperature": 1e-6},
    {"top_k": 1, "min_p": 1},
)
PROMPTS = {
    "trained": ("The class", "", "a 月b", "x\n\n  y", "😀 a\u2581b", "The " * 40),
    "trained_lines": ("床前明月光，", "", "the ", "床前", "moon字\n疑", "the the the the"),
}
SEEDS = (0, -1, 7, 2**32 + 5, 2**64 - 3, -(2**63))


def caller(path: Path) -> Client:
    """The client of that path as a function of its words."""

    def call(*words: str | Path | bytes) -> Result:
        return subprocess.run([path, *words], capture_output=True, timeout=600)

    return call


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return c_client.program(tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def client(program: Path) -> Client:
    return caller(program)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """The client in which a step outside its memory, or undefined arithmetic, ends it."""
    flags = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    return caller(c_client.program(tmp_path_factory.mktemp("checked"), flags))


def words_of(options: dict[str, float], **more: Any) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in (options | more).items()]


@pytest.mark.parametrize("fixture", PROMPTS)
def test_it_writes_the_texts_that_keras_writes(client: Client, request: pytest.FixtureRequest, fixture: str) -> None:
    folder = request.getfixturevalue(fixture)
    model, texts = run_directory.load(folder), set()
    generator = Generator(model)
    for mix, prompt, seed in zip(MIXES * 2, itertools.cycle(PROMPTS[fixture]), itertools.cycle(SEEDS), strict=False):
        done = client(folder / MODEL, *words_of(mix, prompt=prompt, seed=seed, max_new_tokens=37))
        options = Options(**mix)  # type: ignore[arg-type]  # top_k is whole
        sample = generator.generate(prompt, GenerationConfig(37, options), seeds=[seed])[0]
        assert done.stdout.decode() == sample.text + "\n", (mix, prompt, seed)
        reason = f"{len(sample.tokens)} tokens in ", f"finish reason: {sample.finish_reason}\n"
        assert done.stderr.decode().startswith(reason[0])
        assert done.stderr.decode().endswith(reason[1])
        texts.add(sample.text)
    assert len(texts) > 5  # how many follows from what the little model has learnt; one text alone would prove little


def test_a_file_may_have_a_chinese_name_and_lie_in_a_folder_with_one(
    client: Client, trained_lines: Path, tmp_path: Path
) -> None:
    (tmp_path / "唐诗").mkdir()
    named = Path(shutil.copy(trained_lines / MODEL, tmp_path / "唐诗/静夜思.tflite"))
    done = client(named, "--prompt=疑是地", "--temperature=0")
    assert (
        done.stdout.decode()
        == Generator(run_directory.load(trained_lines))
        .generate("疑是地", GenerationConfig(200, Options(temperature=0)))[0]
        .text
        + "\n"
    )


def test_several_texts_have_seeds_one_after_another(client: Client, trained: Path) -> None:
    samples = Generator(run_directory.load(trained)).generate("The class", GenerationConfig(30), seeds=[-1, 0, 1])
    done = client(trained / MODEL, *words_of({}, prompt="The class", seed=-1, n=3, max_new_tokens=30))
    shown = [f"--- seed {seed}\n{sample.text}\n" for seed, sample in zip((-1, 0, 1), samples, strict=True)]
    assert done.stdout.decode() == "".join(shown)
    assert done.stderr.endswith(b"finish reason: length, length, length\n")


def test_seeds_count_modulo_2_to_the_64(client: Client, trained: Path) -> None:
    for high, low in ((2**64 - 1, -1), (2**63, -(2**63))):
        texts = [client(trained / MODEL, f"--seed={seed}").stdout for seed in (high, low)]
        assert texts[0] == texts[1]


@pytest.fixture(scope="module")
def rounded(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its files of eight and sixteen bits."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("rounded") / "small"))
    export_run.export(folder, recipe.Export(formats=("tflite_int8", "tflite_float16"), texts=4, tokens=9))
    return folder


@pytest.mark.parametrize("name", ["model_int8.tflite", "model_float16.tflite"])
def test_of_rounded_weights_it_writes_what_the_python_client_writes(client: Client, rounded: Path, name: str) -> None:
    step, json, model = load(rounded / "tflite" / name)
    metadata, pieces = contract.read_metadata(json), tokenizer.read(model)
    for mix, prompt, seed in zip(MIXES, itertools.cycle(PROMPTS["trained"]), itertools.cycle(SEEDS), strict=False):
        ids = contract.prompt_ids(tokenizer.encode(pieces, prompt), metadata)
        options = contract.Options(**mix)  # type: ignore[arg-type]  # top_k is whole
        tokens = list(contract.generate(step, ids, metadata, options, seed=seed, max_new_tokens=50))
        done = client(rounded / "tflite" / name, *words_of(mix, prompt=prompt, seed=seed, max_new_tokens=50))
        assert done.stdout.decode() == tokenizer.decode(pieces, tokens) + "\n", (mix, prompt, seed)


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pairs, with attention, as TFLite of 32 and of eight bits."""
    folder, words = tmp_path_factory.mktemp("paired"), ("moon", "frost", "月", "霜", "sun")
    lines = [f"where is {a} or {b}?\t{b}, {a}" for a in words for b in words]
    (folder / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    values = {
        "corpus.source": [str(folder / "pairs.tsv")], "corpus.documents": "pairs", "model.embedding_size": 5,
        "model.units": 12, "model.layers": 1, "model.attention": 9, "training.batch_size": 5, "training.epochs": 12,
        "training.learning_rate": 0.02,
    }  # fmt: skip
    made = trainer.train(recipe.override(recipe.Recipe(), values), folder / "runs", "pairs").folder
    export_run.export(made, recipe.Export(formats=("tflite", "tflite_int8"), texts=4, tokens=9))
    return made


SOURCES = ("where is moon or 月?", "", "frost", "one turn\nwhere is 霜 or sun?\n", "sun\n")


def test_of_a_run_on_pairs_it_writes_the_answers_that_keras_writes(client: Client, paired: Path) -> None:
    model, texts = run_directory.load(paired), set()
    generator = Generator(model)
    for mix, prompt, seed in zip(MIXES, itertools.cycle(SOURCES), itertools.cycle(SEEDS), strict=False):
        done = client(paired / MODEL, *words_of(mix, prompt=prompt, seed=seed, max_new_tokens=25))
        options = Options(**mix)  # type: ignore[arg-type]  # top_k is whole
        sample = generator.generate(prompt, GenerationConfig(25, options), seeds=[seed])[0]
        assert done.stdout.decode() == sample.text + "\n", (mix, prompt, seed)
        texts.add(sample.text)
    assert len(texts) > 5


def test_of_pairs_and_rounded_weights_it_writes_what_the_python_client_writes(client: Client, paired: Path) -> None:
    path = paired / "tflite/model_int8.tflite"
    step, json, model = load(path)
    metadata, pieces = contract.read_metadata(json), tokenizer.read(model)
    for mix, prompt, seed in zip(MIXES, itertools.cycle(SOURCES), itertools.cycle(SEEDS), strict=False):
        ids = contract.prompt_ids(tokenizer.encode(pieces, prompt), metadata)
        options = contract.Options(**mix)  # type: ignore[arg-type]  # top_k is whole
        tokens = list(contract.generate(step, ids, metadata, options, seed=seed, max_new_tokens=25))
        done = client(path, *words_of(mix, prompt=prompt, seed=seed, max_new_tokens=25))
        assert done.stdout.decode() == tokenizer.decode(pieces, tokens) + "\n", (mix, prompt, seed)


def test_text_comes_token_by_token(program: Path, trained: Path) -> None:
    """The first characters are there long before the last one of a text that takes hours."""
    with subprocess.Popen(
        [program, trained / MODEL, "--max-new-tokens=2000000000"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(100)) == 100
        assert process.poll() is None
        process.kill()


def one_line(done: Result) -> str:
    """What a client that refuses its input says."""
    assert (done.returncode, done.stdout) == (2, b""), done
    said = done.stderr.decode(errors="replace")
    assert said.endswith("\n")
    assert len(said.splitlines()) == 1, said
    return said


def test_a_file_cut_short_is_one_line_and_exit_status_2(checked: Client, trained: Path, tmp_path: Path) -> None:
    data = (trained / MODEL).read_bytes()
    damaged = tmp_path / "damaged"
    for length in (0, 1, 7, 8, 64, 999, *range(1024, len(data), len(data) // 40), len(data) - 4, len(data) - 1):
        damaged.write_bytes(data[:length])
        assert one_line(checked(damaged)).startswith(f"generate: {damaged}: cannot be used: "), length


def test_bytes_flipped_in_what_a_file_carries_end_in_a_text_or_in_one_line(
    checked: Client, trained_lines: Path, tmp_path: Path
) -> None:
    data, dice = (trained_lines / MODEL).read_bytes(), random.Random(11)
    carried = metadata_buffers(data)
    places = [(data.index(carried[name]), len(carried[name])) for name in ("keras_lstmgen", "tokenizer")]
    damaged, refused = tmp_path / "damaged", 0
    for _ in range(40):
        for start, size in places:
            changed = bytearray(data)
            for _ in range(dice.choice([1, 2, 20])):
                changed[start + dice.randrange(size)] = dice.randrange(256)
            damaged.write_bytes(changed)
            done = checked(damaged, "--prompt=床前 the moon\n字", "--max-new-tokens=5", "--temperature=9")
            if done.returncode:
                assert one_line(done).startswith(f"generate: {damaged}: cannot be used: its ")
                refused += 1
    assert 20 < refused < 80


def test_numbers_in_the_metadata_that_are_not_the_model_s_are_refused(
    checked: Client, trained: Path, tmp_path: Path
) -> None:
    data, damaged = (trained / MODEL).read_bytes(), tmp_path / "damaged"
    metadata = contract.read_metadata(metadata_buffers(data)["keras_lstmgen"])
    for name, value in (("vocab_size", metadata.vocab_size), ("state_size", metadata.state_size)):
        said = f'"{name}": {value}'.encode()
        assert data.count(said) == 1
        damaged.write_bytes(data.replace(said, f'"{name}": {value + 1}'.encode()))
        assert f"differ in {name.removesuffix('_size').replace('vocab', 'vocabulary')}" in one_line(checked(damaged))


def test_metadata_that_leaves_nothing_to_write_is_refused(checked: Client, tmp_path: Path) -> None:
    data, damaged = (GOLDEN / MODEL).read_bytes(), tmp_path / "damaged"
    carried = metadata_buffers(data)["keras_lstmgen"]
    about = {name: value for name, value in json.loads(carried).items() if name not in ("recipe", "metrics")}
    about["unsampled_ids"] = list(range(about["vocab_size"]))
    damaged.write_bytes(data.replace(carried, json.dumps(about).encode().ljust(len(carried))))
    assert f"{damaged}: cannot be used: its metadata excludes all ids from generation" in one_line(checked(damaged))


def test_other_bad_input_is_one_line_and_exit_status_2(client: Client, trained: Path, tmp_path: Path) -> None:
    model, bare = trained / MODEL, tmp_path / "bare.tflite"
    bare.write_bytes(model.read_bytes().replace(b"tokenizer\0", b"other_one\0"))
    bad: list[tuple[list[Any], str]] = [
        ([], "give one model"),
        ([model, model], "give one model"),
        ([tmp_path / "none.tflite"], "none.tflite: there is no such model"),
        ([tmp_path], "cannot be used"),
        ([trained / "onnx/model.onnx"], "cannot be used: it is not a TFLite file"),
        ([bare], "it does not contain the metadata"),
        ([model, "--temperature=-1"], "temperature is out of range"),
        ([model, "--temperature=nan"], "temperature is out of range"),
        ([model, "--temperature=warm"], "--temperature must be a number, not 'warm'"),
        ([model, "--top-p", "0"], "top_p is out of range"),
        ([model, "--top-k", "2147483648"], "top_k is out of range"),
        ([model, "--top-k", "1.5"], "--top-k must be a whole number"),
        ([model, "--seed", "18446744073709551616"], "--seed must be a whole number of 64 bits"),
        ([model, "--seed", "-9223372036854775809"], "--seed must be a whole number of 64 bits"),
        ([model, "--seed", ""], "--seed must be a whole number"),
        ([model, "--n", "0"], "--n must be a whole number of 1 or more"),
        ([model, "--max-new-tokens", "3x"], "--max-new-tokens must be a whole number"),
        ([model, "--prompt", b"\xff"], "--prompt must be text in UTF-8"),
        ([model, "--unknown"], "--unknown"),
        ([model, "--seed"], "seed"),
    ]
    for words, line in bad:
        assert line in one_line(client(*words)), words


def test_a_text_that_cannot_be_written_is_an_error(program: Path, trained: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([program, trained / MODEL], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"cannot be written" in done.stderr


def test_help_names_the_options_of_the_python_clients(client: Client) -> None:
    done = client("--help")
    python = [sys.executable, str(Path(__file__).parents[1] / "export/tflite/generate.py"), "--help"]
    shown = subprocess.run(python, capture_output=True, env=os.environ | {"COLUMNS": "300"}, check=True).stdout.decode()
    for option in ("prompt", "seed", "n", "max-new-tokens", *(name.replace("_", "-") for name in MIXES[6])):
        assert f"--{option} " in done.stdout.decode()
        assert f"--{option} " in shown
    assert done.returncode == 0
