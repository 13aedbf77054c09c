"""Answers of a model of pairs to many sources, side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_lstmgen.generation import beam_search, decoding_loop, sampling, text_generation
from keras_lstmgen.generation.logits_processors import HostOptions
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.reporting import reporter
from keras_lstmgen.utils.errors import check_at_least

ROWS = 64  # most sources answered in one batch
GREEDY = sampling.Options(temperature=0)


def answers(run: Run, sources: Sequence[str], limit: int) -> list[str]:
    """The greedy answer to each source, of at most ``limit`` tokens: what ``generation.generate`` writes to it alone.

    Sources of similar lengths share a batch.
    """
    check_at_least("limit", limit, 1)
    prompts = [run.prompt_ids(source + "\n") for source in sources]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    found, call = [""] * len(prompts), _writer(run)
    with reporter.progress("answers", len(prompts)) as advance:
        for start in range(0, len(order), ROWS):
            numbers = order[start : start + ROWS]
            texts = _batch(run, call, [prompts[number] for number in numbers], limit)
            for number, text in zip(numbers, texts, strict=True):
                found[number] = text
            advance(len(numbers))
    return found


def _writer(run: Run) -> Any:
    """The loop of ``decode.write`` over prompts of different lengths; traced once."""
    weights, unsampled, end_id = run.weights, text_generation.unsampled_mask(run), run.metadata.end_id

    @tf.function(reduce_retracing=True, autograph=False)
    def call(ids: Any, first: Any, text: decoding_loop.Text, noise: Any, rows: sampling.Rows) -> Any:
        return decoding_loop.write(weights, ids, text, noise, rows, unsampled, end_id, first=first).tokens

    return call


def _batch(run: Run, call: Any, prompts: list[list[int]], limit: int) -> list[str]:
    ids, first = right(prompts)
    B = len(prompts)
    text = decoding_loop.begin(B, run.metadata.state_size, run.metadata.vocab_size)
    tokens = call(ids, first, text, np.zeros((B, limit), np.float32), sampling.rows([GREEDY] * B))
    return [run.tokenizer.decode(row) for row in tokens.numpy()]  # end tokens vanish


def right(prompts: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Prompts at the right end of int32 [B, P], padded by their own first ids, and int32 [B, 1], where each begins."""
    P = max(map(len, prompts))
    ids = np.array([[prompt[0]] * (P - len(prompt)) + prompt for prompt in prompts], np.int32)
    return ids, np.array([[P - len(prompt)] for prompt in prompts], np.int32)


def searched(run: Run, sources: Sequence[str], asked: beam_search.Search) -> list[str]:
    """The best answer to each source that a beam search finds; so many searches go side by side."""
    step, limits = decoding_loop.stepper(run.weights), text_generation.constrained(run, HostOptions())
    S, found = run.metadata.state_size, list[str]()
    with reporter.progress(f"answers, {asked.beams} beams", len(sources)) as advance:
        for start in range(0, len(sources), ROWS):
            prompts = [run.prompt_ids(source + "\n") for source in sources[start : start + ROWS]]
            for texts in beam_search.together(step, [beam_search.searching(asked, limits, ids, S) for ids in prompts]):
                found.append(text_generation.of_search(texts[0], text_generation.Tail(run.tokenizer, ())).text)
            advance(len(prompts))
    return found


def drawn(run: Run, sources: Sequence[str], number: int, limit: int) -> dict[str, list[str]]:
    """Write texts with neutral options and seeds 0, 1, … to each source; an empty source stands for documents.

    Args:
        run: the model.
        sources: what the texts answer.
        number: of texts for each source.
        limit: most tokens of a text.
    """
    check_at_least("number", number, 0)
    call = text_generation.writer(run)
    return {source: _drawn(run, call, source, number, limit) for source in sources}


def _drawn(run: Run, call: text_generation.Writer, source: str, number: int, limit: int) -> list[str]:
    found, prompt = list[str](), source + "\n" if source else ""
    with reporter.progress(f"samples: {source}" if source else "samples", number) as advance:
        for start in range(0, number, ROWS):
            seeds = range(start, min(start + ROWS, number))
            found += [sample.text for sample in text_generation.generate(run, prompt, limit, seeds=seeds, call=call)]
            advance(len(seeds))
    return found
