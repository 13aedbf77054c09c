"""A library call with an argument that is zero, negative or empty is refused by an error that names the argument."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lstmgen.api import loaded_model
from keras_lstmgen.config import recipe
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.exporters import export_run
from keras_lstmgen.generation import batch_generation, beam_search, chat_session, decoding_loop, text_generation
from keras_lstmgen.generation.logits_processors import HostOptions
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.interpret import inspect_run, probes
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import UserError

NO_IDS, IDS = np.array([], np.int32), np.array([5, 6, 7], np.int32)


@pytest.fixture(scope="module")
def model() -> run_directory.Run:
    return run_directory.load(Path(__file__).with_name("golden") / "run")


def no_step(*_: Any) -> Any:
    raise AssertionError("nothing is to be read")


def searched(model: run_directory.Run) -> Any:
    limits = text_generation.compile_constraints(model, HostOptions())
    return beam_search.search(no_step, beam_search.BeamSearchConfig(2), limits, [], model.metadata.state_size)


def gone_on(model: run_directory.Run) -> Any:
    text = decoding_loop.initial_state(1, model.metadata.state_size, model.metadata.vocab_size)
    return Generator(model).continue_texts([], text, GenerationConfig(3))


def chat_model(model: run_directory.Run, max_new_tokens: int = 3, memory: int = 0) -> chat_session.ChatModel:
    return chat_session.ChatModel(Generator(model), GenerationConfig(max_new_tokens), memory)


def exported(**values: Any) -> Any:
    return export_run.export(Path("nowhere"), recipe.Export(**values))


CALLS: dict[str, Callable[[run_directory.Run], Any]] = {
    "seeds: is empty": lambda model: Generator(model).generate("a", GenerationConfig(3), seeds=[]),
    "max_new_tokens: 0 is out of range": lambda model: Generator(model).generate("a", GenerationConfig(0)),
    "max_new_tokens: -3 is out of range": lambda model: Generator(model).generate("a", GenerationConfig(-3)),
    "ids: is empty; give at least one": gone_on,
    "K: -1 is out of range": lambda model: loaded_model.token_logprobs(model, no_step, "a", [5], -1),
    "--beams: 0 is out of range; give 1 or more": lambda _: beam_search.BeamSearchConfig(0),
    "--max-new-tokens: 0 is out of range": lambda _: beam_search.BeamSearchConfig(2, 0.0, 0),
    "ids: is empty": searched,
    "max_new_tokens: 0 is out of range; give 1 or more": lambda model: batch_generation.greedy_answers(model, ["a"], 0),
    "samples: -1 is out of range": lambda model: batch_generation.samples_per_source(model, [""], -1, 3),
    "--memory: -1 is out of range": lambda model: chat_model(model, memory=-1),
    "max_new_tokens: -1 is out of range": lambda model: chat_model(model, max_new_tokens=-1),
    "parts: 0 is out of range": lambda model: likelihood.stream_nll(model.weights, IDS, 0),
    "ids: their number: 0 is out of range; give 2": lambda model: likelihood.windows_cross_entropy(
        model.weights, NO_IDS
    ),
    "length: 0 is out of range": lambda model: likelihood.windows_cross_entropy(model.weights, IDS, 0),
    "windows: 0 is out of range": lambda model: likelihood.windows_cross_entropy(model.weights, IDS, 2, 0),
    "--format: is empty": lambda _: exported(formats=()),
    "export.formats: 'verify' is not one of": lambda _: exported(formats=("verify",)),
    "export.texts: 0 is out of range": lambda _: exported(texts=0),
    "export.tokens: -1 is out of range": lambda _: exported(tokens=-1),
    "--max-new-tokens: -2 is out of range": lambda model: inspect_run.inspect(
        model, inspect_run.InspectOptions("a", max_new_tokens=-2)
    ),
    "--prompt: is empty": lambda model: inspect_run.inspect(model, inspect_run.InspectOptions("")),
}


@pytest.mark.parametrize("said", CALLS)
def test_an_argument_that_is_zero_negative_or_empty_is_named(model: run_directory.Run, said: str) -> None:
    with pytest.raises(UserError) as caught:
        CALLS[said](model)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_no_sources_have_no_answers(model: run_directory.Run) -> None:
    assert (
        batch_generation.greedy_answers(model, [], 3)
        == batch_generation.beam_search_answers(model, [], beam_search.BeamSearchConfig(2))
        == []
    )


def test_probes_of_an_empty_text_tell_of_no_cell() -> None:
    labels = probes.features([])
    found, rare = probes.find_cells(np.zeros((0, 12), np.float32), labels)
    assert (found, rare) == ([], list(labels))
