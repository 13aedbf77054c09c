"""A client that knows docs/contract.md alone finds it kept in every artifact, and writes by ``step`` the same."""

import functools
import itertools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from keras_lstmgen.exporters import registry
from keras_lstmgen.exporters.registry import Call
from keras_lstmgen.generation import sampling
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the kit is no package: it travels as a folder
import export.contract as kit
from export import tokenizer as kit_tokenizer

FORMATS = {name: registry.exporter(name) for name in ("saved_model", "tflite", "onnx")}
ROWS = 3  # that an artifact is asked for at once
N = 21  # tokens of a text: more than Keras writes in one call, and no multiple of it
PROMPTS = {"trained": ("", "The ", "a 月b", "x\n\n  y"), "trained_lines": ("", "the ", "床前明月", "moon字")}
MIXES: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 0.7, "top_k": 5},
    {"top_p": 0.85},
    {"min_p": 0.1, "repetition_penalty": 1.7, "temperature": 1.3},
    {"repetition_penalty": 0.8, "temperature": 2.5, "top_k": 30, "top_p": 0.97, "min_p": 0.01},
    {"temperature": 1e6},
)
SEEDS = (0, -1, 7, 2**32 + 5, 2**64 - 3)


class Artifact(NamedTuple):
    """An artifact, opened, and the run it was made of."""

    format: str
    call: Call
    run: run_directory.Run
    metadata: kit.Metadata

    def zeros(self, B: int) -> Any:
        """The state in which a text begins."""
        return np.zeros((B, self.metadata.state_size), np.float32)

    def step(self, token: int, state: kit.Floats) -> tuple[kit.Floats, kit.Floats]:
        """One row of ``step``, as a client calls it."""
        out = self.call("step", ids=np.array([token], np.int32), state=state[np.newaxis])
        return out["logits"][0], out["next_state"][0]

    def write(self, ids: Any, noise: Any, state: Any = None, **options: Any) -> dict[str, Any]:
        """``generate`` for int32 [B, P] and float32 [B, N]; options are the same in all rows."""
        rows = sampling.rows([sampling.Options(**options)] * len(ids))
        state = self.zeros(len(ids)) if state is None else state
        return self.call("generate", ids=np.array(ids, np.int32), state=state, noise=noise, **rows._asdict())


class Case(NamedTuple):
    """A text to write."""

    prompt: str
    options: dict[str, Any]
    seed: int


def cases(fixture: str) -> list[Case]:
    """Every mix of options, with prompts and seeds in turn."""
    prompts, seeds = itertools.cycle(PROMPTS[fixture]), itertools.cycle(SEEDS)
    return [Case(prompt, mix, seed) for mix, prompt, seed in zip(MIXES * 2, prompts, seeds, strict=False)]


@pytest.fixture(scope="module", params=list(PROMPTS))
def source(request: pytest.FixtureRequest) -> tuple[str, Path, run_directory.Run, list[list[int]]]:
    """A run, and what Keras writes in each case."""
    folder = request.getfixturevalue(request.param)
    model = run_directory.load(folder)
    generator = Generator(model)

    def tokens(case: Case) -> list[int]:
        options = sampling.Options(**case.options)
        return generator.generate(case.prompt, GenerationConfig(N, options), seeds=[case.seed])[0].tokens

    return request.param, folder, model, [tokens(case) for case in cases(request.param)]


@functools.cache
def opened(folder: Path, name: str) -> Call:
    return FORMATS[name].open_artifact(folder)


@pytest.fixture(params=list(FORMATS))
def artifact(request: pytest.FixtureRequest, source: tuple[str, Path, run_directory.Run, Any]) -> Artifact:
    """One format of a run."""
    _, folder, model, _ = source
    metadata = kit.read_metadata((folder / "keras_lstmgen.json").read_bytes())
    return Artifact(request.param, opened(folder, request.param), model, metadata)


def test_step_with_a_client_s_sampling_generate_and_keras_write_the_same(
    artifact: Artifact, source: tuple[str, Path, run_directory.Run, list[list[int]]]
) -> None:
    fixture, folder, _, expected = source
    pieces = kit_tokenizer.read((folder / "tokenizer.model").read_bytes())
    for case, keras in zip(cases(fixture), expected, strict=True):
        ids = kit.prompt_ids(kit_tokenizer.encode(pieces, case.prompt), artifact.metadata)
        options = kit.Options(**case.options)
        client = kit.generate(artifact.step, ids, artifact.metadata, options, seed=case.seed, max_new_tokens=N)
        assert list(client) == keras, case
        whole = artifact.write([ids], kit.noise(case.seed, N)[np.newaxis], **case.options)["tokens"][0]
        assert whole.tolist() == keras + [artifact.metadata.end_id] * (N - len(keras)), case
    assert len({tuple(tokens) for tokens in expected}) > len(expected) // 4  # or little would have been compared


def test_the_rows_of_a_batch_know_nothing_of_each_other(artifact: Artifact) -> None:
    """Each row has a prompt, seed and options of its own."""
    ids, noise = np.array([[5, 6], [7, 5], [270, 9]], np.int32), np.stack([kit.noise(seed, N) for seed in (3, 4, 5)])
    mixes = [sampling.Options(), sampling.Options(temperature=0.0), sampling.Options(repetition_penalty=2.0, top_k=9)]
    rows = sampling.rows(mixes)._asdict()
    together = artifact.call("generate", ids=ids, state=artifact.zeros(3), noise=noise, **rows)
    for b in range(3):
        one = {name: column[b : b + 1] for name, column in rows.items()}
        inputs = {"ids": ids[b : b + 1], "state": artifact.zeros(1), "noise": noise[b : b + 1]}
        alone = artifact.call("generate", **inputs, **one)
        np.testing.assert_array_equal(together["tokens"][b], alone["tokens"][0])
        np.testing.assert_allclose(together["logprobs"][b], alone["logprobs"][0], atol=1e-5)


def log_softmax(logits: Any) -> Any:
    """In float64, of the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def random_ids(artifact: Artifact, P: int) -> Any:
    """Any ids of the vocabulary, int32 [B, P], those that training never saw among them."""
    dice = np.random.default_rng(P)
    return dice.integers(4, artifact.metadata.vocab_size, (ROWS, P)).astype(np.int32)


@pytest.mark.parametrize("P", [2, 3, 19])
def test_score_is_the_log_softmax_of_one_step_after_another(artifact: Artifact, P: int) -> None:
    ids, state, logprobs = random_ids(artifact, P), artifact.zeros(ROWS), []
    for t in range(P - 1):
        out = artifact.call("step", ids=ids[:, t], state=state)
        state = out["next_state"]
        logprobs.append(np.take_along_axis(log_softmax(out["logits"]), ids[:, t + 1, np.newaxis], axis=1))
    scored = artifact.call("score", ids=ids, state=artifact.zeros(ROWS))
    np.testing.assert_allclose(scored["logprobs"], np.concatenate(logprobs, axis=1), atol=1e-5)
    np.testing.assert_allclose(scored["next_state"], state, atol=1e-5)
    assert scored["logprobs"].dtype == scored["next_state"].dtype == np.float32


def test_windows_of_score_chain_without_losing_a_token_between_them(artifact: Artifact) -> None:
    ids, zeros = random_ids(artifact, 11), artifact.zeros(ROWS)
    whole = artifact.call("score", ids=ids, state=zeros)
    first = artifact.call("score", ids=ids[:, :5], state=zeros)
    second = artifact.call("score", ids=ids[:, 4:], state=first["next_state"])
    chained = np.concatenate([first["logprobs"], second["logprobs"]], axis=1)
    np.testing.assert_allclose(chained, whole["logprobs"], atol=1e-6)
    np.testing.assert_allclose(second["next_state"], whole["next_state"], atol=1e-6)


def noises(first_seed: int = 0) -> Any:
    return np.stack([kit.noise(first_seed + row, N) for row in range(ROWS)])


def test_going_on_with_the_last_token_and_the_state_equals_one_call(artifact: Artifact) -> None:
    ids, cut, options = random_ids(artifact, 4), 6, {"temperature": 0.9, "top_p": 0.95}
    noise = noises()
    whole = artifact.write(ids, noise, **options)
    first = artifact.write(ids, noise[:, :cut], **options)
    second = artifact.write(first["tokens"][:, -1:], noise[:, cut:], first["next_state"], **options)
    np.testing.assert_array_equal(np.concatenate([first["tokens"], second["tokens"]], axis=1), whole["tokens"])
    logprobs = np.concatenate([first["logprobs"], second["logprobs"]], axis=1)
    np.testing.assert_allclose(logprobs, whole["logprobs"], atol=1e-5)
    going = whole["tokens"][:, -1] != artifact.metadata.end_id  # of a text that ended the state means nothing
    np.testing.assert_allclose(second["next_state"][going], whole["next_state"][going], atol=1e-5)


def test_the_repetition_penalty_knows_the_ids_of_the_call_start_symbol_included(artifact: Artifact) -> None:
    """Greedy, with a penalty that no difference of logits outweighs, nothing is written twice, nor the prompt's ids."""
    ids = np.array([[artifact.metadata.start_id, 5, 6, 7]] * ROWS, np.int32)
    written = artifact.write(ids, noises()[:, :9], temperature=0.0, repetition_penalty=1e6)["tokens"]
    for row in written.tolist():
        text = row[: row.index(artifact.metadata.end_id) + 1] if artifact.metadata.end_id in row else row
        assert len({*text, *ids[0].tolist()}) == len(text) + 4


def test_after_an_end_token_a_row_holds_end_tokens_with_logprobs_zero(artifact: Artifact) -> None:
    """The end token is never sampled in a stream of characters; where it may be, some texts end."""
    end, ended = artifact.metadata.end_id, 0
    for seed in range(0, 60, 10):
        out = artifact.write(random_ids(artifact, 3), noises(seed))
        for tokens, logprobs in zip(out["tokens"], out["logprobs"], strict=True):
            length = int(np.argmax(tokens == end)) + 1 if end in tokens else N
            ended += length < N
            assert (tokens[length:] == end).all()
            assert (logprobs[length:] == 0).all()
            assert (logprobs[:length] < 0).all()
    assert (ended > 2) == (end not in artifact.metadata.unsampled_ids)


def test_ids_that_end_with_the_end_token_are_a_text_that_is_over(artifact: Artifact) -> None:
    ids = random_ids(artifact, 4)
    ids[-1, -1] = artifact.metadata.end_id
    out = artifact.write(ids, noises()[:, :5])
    assert (out["tokens"][-1] == artifact.metadata.end_id).all()
    assert (out["logprobs"][-1] == 0).all()
    assert (out["logprobs"][:-1, 0] < 0).all()
    assert (
        list(kit.generate(artifact.step, ids[-1].tolist(), artifact.metadata, kit.Options(), seed=0, max_new_tokens=5))
        == []
    )


def test_logprobs_are_the_model_s_own_before_any_option(artifact: Artifact) -> None:
    ids = random_ids(artifact, 2)
    out = artifact.write(ids, noises(), temperature=0.5, top_k=9, repetition_penalty=1.5)
    scored = artifact.call("score", ids=np.concatenate([ids, out["tokens"]], axis=1), state=artifact.zeros(ROWS))
    before_the_end = out["logprobs"] != 0
    assert before_the_end[:, 0].all()
    np.testing.assert_allclose(out["logprobs"][before_the_end], scored["logprobs"][:, 1:][before_the_end], atol=1e-5)


def test_unsampled_ids_are_never_written_and_keep_their_logits_in_step(artifact: Artifact) -> None:
    never = set(artifact.metadata.unsampled_ids)
    assert {0, artifact.run.tokenizer.start_id} < never
    written = artifact.write(random_ids(artifact, 2), noises(), temperature=1e6)["tokens"]
    assert not never & set(written.ravel().tolist())
    logits, _ = artifact.step(5, artifact.zeros(1)[0])
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits, artifact.run.model(np.array([[5]]), training=False)[0, 0], atol=1e-5)
