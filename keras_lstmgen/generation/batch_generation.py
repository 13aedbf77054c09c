"""Generate many texts in batches: texts for different prompts, answers to sources, and samples for each source."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.generation import beam_search, decoding_loop, sampling, text_generation
from keras_lstmgen.generation.detokenizer import Detokenizer
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.generation.logits_processors import HostOptions
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator, Loop
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.reporting import reporter
from keras_lstmgen.utils.errors import check_at_least

BATCH_SIZE = 64  # maximum number of texts per batch
GREEDY = sampling.Options(temperature=0)


class PromptRow(NamedTuple):
    """A text to generate: its prompt, its 64-bit seed and its sampling options."""

    prompt: str
    seed: int
    options: sampling.Options


def sample_rows(generator: Generator, rows: Sequence[PromptRow], config: GenerationConfig) -> list[Sample]:
    """Generate one text per row. Rows with prompts of similar lengths share a batch.

    The other rows of a batch do not change a text. ``Generator.generate`` with the same prompt, seed and options
    returns the same text.

    Args:
        generator: the generator.
        rows: the rows.
        config: settings that all rows have in common. ``config.options`` has no effect.

    Returns:
        One sample per row, in the order of the rows.

    Raises:
        UserError: if the vocabulary cannot satisfy an option of ``config.host``.
    """
    prompts = [generator.run.prompt_ids(row.prompt) for row in rows]
    by_length = sorted(range(len(rows)), key=lambda index: len(prompts[index]))
    samples: dict[int, Sample] = {}
    for start in range(0, len(by_length), BATCH_SIZE):
        indices = by_length[start : start + BATCH_SIZE]
        batch = _sample_batch(generator, [prompts[i] for i in indices], [rows[i] for i in indices], config)
        samples.update(zip(indices, batch, strict=True))
    return [samples[index] for index in range(len(rows))]


def _sample_batch(
    generator: Generator, prompts: list[list[int]], rows: Sequence[PromptRow], config: GenerationConfig
) -> list[Sample]:
    """Generate the texts of one batch."""
    metadata = generator.run.metadata
    texts = [generator.begin(ids, config) for ids in prompts]
    ids, starts = pad_left(prompts)
    options = sampling.rows([row.options for row in rows])
    request = decoding_loop.Request(ids, None, options, starts if starts.any() else None)
    state = decoding_loop.initial_state(len(rows), metadata.state_size, metadata.vocab_size)
    for _ in generator.chunks(texts, request, state, config, [row.seed for row in rows]):
        pass
    for text in texts:
        text.finish("length")
    return [text.sample for text in texts]


def greedy_answers(run: Run, sources: Sequence[str], max_new_tokens: int) -> list[str]:
    """Generate the greedy answer to each source.

    Sources of similar length share a batch. The other sources of a batch do not change an answer. For a single source,
    ``Generator.generate`` with the temperature 0 returns the same answer.

    Args:
        run: a run that was trained on pairs.
        sources: the source texts, for example questions.
        max_new_tokens: maximum number of tokens per answer, 1 or more.

    Returns:
        One answer per source, in the order of the sources.

    Raises:
        UserError: if ``max_new_tokens`` is out of range.
    """
    check_at_least("max_new_tokens", max_new_tokens, 1)
    prompts = [run.prompt_ids(source + "\n") for source in sources]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers, loop = [""] * len(prompts), text_generation.compile_loop(run, run.weights)
    with reporter.progress("answers", len(prompts)) as advance:
        for start in range(0, len(by_length), BATCH_SIZE):
            indices = by_length[start : start + BATCH_SIZE]
            texts = _greedy_batch(run, loop, [prompts[index] for index in indices], max_new_tokens)
            for index, text in zip(indices, texts, strict=True):
                answers[index] = text
            advance(len(indices))
    return answers


def _greedy_batch(run: Run, loop: Loop, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
    """Generate the greedy answers to the prompts of one batch."""
    ids, starts = pad_left(prompts)
    B = len(prompts)
    noise, options = np.zeros((B, max_new_tokens), np.float32), sampling.rows([GREEDY] * B)
    state = decoding_loop.initial_state(B, run.metadata.state_size, run.metadata.vocab_size)
    tokens = loop(decoding_loop.Request(ids, noise, options, starts), state).tokens
    return [run.tokenizer.decode(row) for row in tokens.numpy()]  # an end token decodes to an empty string


def pad_left(prompts: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pad prompts on the left to the length P of the longest prompt.

    Each prompt is padded with copies of its first id, so the padding adds no id that the prompt does not contain.

    Args:
        prompts: B prompts. Each prompt contains at least one id.

    Returns:
        The padded prompts, int32 [B, P], and the number of padding columns of each prompt, int32 [B, 1].

    >>> from keras_lstmgen.generation.batch_generation import pad_left
    >>> ids, starts = pad_left([[1, 5, 3], [1, 3]])
    >>> ids.tolist(), starts.tolist()
    ([[1, 5, 3], [1, 1, 3]], [[0], [1]])
    """
    P = max(map(len, prompts))
    ids = np.array([[prompt[0]] * (P - len(prompt)) + prompt for prompt in prompts], np.int32)
    return ids, np.array([[P - len(prompt)] for prompt in prompts], np.int32)


def beam_search_answers(run: Run, sources: Sequence[str], config: beam_search.BeamSearchConfig) -> list[str]:
    """Find the best answer to each source by beam search.

    Args:
        run: a run that was trained on pairs.
        sources: the source texts.
        config: parameters of the search.

    Returns:
        One answer per source, in the order of the sources.
    """
    step, S = decoding_loop.compile_step(run.weights), run.metadata.state_size
    constraints, answers = text_generation.compile_constraints(run, HostOptions()), list[str]()
    with reporter.progress(f"answers, {config.beams} beams", len(sources)) as advance:
        for start in range(0, len(sources), BATCH_SIZE):
            prompts = [run.prompt_ids(source + "\n") for source in sources[start : start + BATCH_SIZE]]
            searches = [beam_search.start(config, constraints, ids, S) for ids in prompts]
            for hypotheses in beam_search.run_together(step, searches):
                answers.append(text_generation.sample_of(hypotheses[0], Detokenizer(run.tokenizer)).text)
            advance(len(prompts))
    return answers


def samples_per_source(run: Run, sources: Sequence[str], samples: int, max_new_tokens: int) -> dict[str, list[str]]:
    """Generate several texts for each source with the default sampling options.

    The texts of a source have the seeds 0, 1, and so on.

    Args:
        run: the trained run.
        sources: the source texts. For a run whose documents have no source, pass one empty string.
        samples: number of texts per source, 0 or more.
        max_new_tokens: maximum number of tokens per text, 1 or more.

    Returns:
        A dictionary that maps each source to the list of its texts.

    Raises:
        UserError: if ``samples`` or ``max_new_tokens`` is out of range.
    """
    check_at_least("samples", samples, 0)
    generator, config = Generator(run), GenerationConfig(max_new_tokens)
    return {source: _samples(generator, source, samples, config) for source in sources}


def _samples(generator: Generator, source: str, samples: int, config: GenerationConfig) -> list[str]:
    """Generate the texts of one source."""
    texts, prompt = list[str](), source + "\n" if source else ""
    with reporter.progress(f"samples: {source}" if source else "samples", samples) as advance:
        for start in range(0, samples, BATCH_SIZE):
            seeds = range(start, min(start + BATCH_SIZE, samples))
            texts += [sample.text for sample in generator.generate(prompt, config, seeds=seeds)]
            advance(len(seeds))
    return texts
