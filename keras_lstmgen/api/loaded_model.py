"""A loaded run with its compiled decoding functions."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_lstmgen.api.generation_options import Plan
from keras_lstmgen.data import splits
from keras_lstmgen.generation import batch_generation, decoding_loop, text_generation
from keras_lstmgen.generation.batch_generation import PromptRow
from keras_lstmgen.generation.beam_search import log_softmax
from keras_lstmgen.generation.decoding_loop import Step
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.generation.logits_processors import HostOptions
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import check_at_least

Emit = Callable[[int, str], None]  # a function that receives the index of a text and the next part of this text


class GeneratedText(str):
    """A generated text: a string with details of its generation.

    Attributes:
        sample: tokens, log-probability, reason for the end, note, and score of the text (``Sample``).
        token_logprobs: one dictionary per token with its log-probability and the most probable tokens at its position.
            None without the option ``logprobs``.
    """

    sample: Sample
    token_logprobs: list[dict[str, Any]] | None

    def __new__(cls, sample: Sample, token_logprobs: list[dict[str, Any]] | None = None) -> "GeneratedText":
        """Create the string from the text of a sample."""
        text = super().__new__(cls, sample.text)
        text.sample, text.token_logprobs = sample, token_logprobs
        return text


class LoadedModel:
    """A loaded run with its compiled decoding functions.

    The functions are compiled for the first text, and reused for later texts. No method changes the object, so several
    threads can use it at the same time.

    Attributes:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        """Create the decoding functions of a run."""
        self.run = run
        self._generator, self._step = Generator(run), decoding_loop.compile_step(run.weights)

    def check(self, plan: Plan) -> None:
        """Raise UserError if the vocabulary cannot satisfy an option, for example a bias for an unknown token."""
        if plan.config.host or plan.search:
            self._generator.constraints(plan.config.host or HostOptions())

    def samples(self, prompt: str, plan: Plan, emit: Emit = lambda _row, _text: None) -> list[Sample]:
        """Generate the texts for a prompt by sampling or by beam search.

        Args:
            prompt: the prompt. It is normalized in the same way as the training text.
            plan: the options. Text k uses the seed ``seed + k``.
            emit: a function that receives each part of a sampled text when the part is final.
        """
        options, config, prompt = plan.options, self._config(plan), self._normalized(prompt)
        if plan.search is None:
            seeds = [options.seed + row for row in range(options.n)]
            return self._generator.generate(prompt, config, seeds=seeds, emit=emit)
        constraints = self._generator.constraints(config.host or HostOptions())
        found = text_generation.search(
            self.run, self._step, prompt, plan.search, constraints=constraints, stop=config.stop
        )
        return found[: options.n]

    def batch(self, requests: Sequence[tuple[str, Plan]]) -> list[list[Sample]]:
        """Generate the texts for several prompts. Prompts with compatible options share a batch.

        Args:
            requests: each prompt with its options.

        Returns:
            For each request, the samples that ``samples`` returns.
        """
        rows: dict[Hashable, list[tuple[int, PromptRow]]] = defaultdict(list)
        results: list[list[Sample]] = [[] for _ in requests]
        for number, (prompt, plan) in enumerate(requests):
            if plan.search is not None:
                results[number] = self.samples(prompt, plan)
                continue
            key = (plan.config.max_new_tokens, tuple(plan.config.stop), plan.config.host)
            for seed in range(plan.options.seed, plan.options.seed + plan.options.n):
                rows[key].append((number, PromptRow(self._normalized(prompt), seed, plan.config.options)))
        for group in rows.values():
            config = self._config(requests[group[0][0]][1])
            samples = batch_generation.sample_rows(self._generator, [row for _, row in group], config)
            for (number, _), sample in zip(group, samples, strict=True):
                results[number].append(sample)
        return results

    def stream(self, prompt: str, plan: Plan) -> Iterator[str]:
        """Generate one text, and yield its parts when they are final. A beam search yields the whole text at its end.

        Args:
            prompt: see ``samples``.
            plan: the options.
        """
        if plan.search is None:
            yield from self._generator.stream(self._normalized(prompt), self._config(plan), seed=plan.options.seed)
        else:
            yield self.samples(prompt, plan)[0].text

    def texts(self, prompts: Sequence[str], plan: Plan) -> list[list[GeneratedText]]:
        """Generate the texts for each prompt, with the log-probabilities of their tokens if ``logprobs`` is given.

        Args:
            prompts: the prompts; see ``samples``. They share batches.
            plan: the options, which apply to each prompt.
        """
        groups = self.batch([(prompt, plan) for prompt in prompts])
        return [
            [self._generated(prompt, sample, plan.options.logprobs) for sample in group]
            for prompt, group in zip(prompts, groups, strict=True)
        ]

    def _generated(self, prompt: str, sample: Sample, K: int | None) -> GeneratedText:
        """Return a text with its log-probabilities if K is not None."""
        return GeneratedText(sample, None if K is None else self.token_logprobs(prompt, sample, K))

    def token_logprobs(self, prompt: str, sample: Sample, K: int) -> list[dict[str, Any]]:
        """Return the log-probability and the K most likely tokens for each token of a sample (``token_logprobs``)."""
        return token_logprobs(self.run, self._step, self._normalized(prompt), sample.tokens, K)

    def _normalized(self, prompt: str) -> str:
        """Return a prompt after the Unicode normalization of the training text."""
        return splits.normalized_prompt(prompt, self.run.recipe.corpus)

    def _config(self, plan: Plan) -> GenerationConfig:
        """Return the settings of the sampling with normalized stop strings."""
        return replace(plan.config, stop=[splits.normalized(text, self.run.recipe.corpus) for text in plan.config.stop])


def token_logprobs(run: Run, step: Step, prompt: str, tokens: Sequence[int], K: int) -> list[dict[str, Any]]:
    """Compute the log-probability of each token of a text under the model, before the sampling options apply.

    Args:
        run: the trained run.
        step: result of ``decoding_loop.compile_step``.
        prompt: prompt of the text.
        tokens: ids of the text without the prompt.
        K: number of most likely tokens to return for each position, 0 or more.

    Returns:
        One dictionary per token, with five keys:

        - ``position``: the index of the token in the text.
        - ``id``: the id of the token.
        - ``token``: the piece of the tokenizer for this id.
        - ``logprob``: the natural logarithm of the probability of the token among all V ids.
        - ``top_logprobs``: a list of the K most likely tokens at this position. Each entry of the list is a dictionary
          with the keys ``id``, ``token`` and ``logprob``. The entries are sorted from the most likely to the least
          likely token. Equally likely tokens are sorted by id.

    Raises:
        UserError: if K is negative.
    """
    check_at_least("K", K, 0)
    state: Any = np.zeros((1, run.metadata.state_size), np.float32)
    for token in run.prompt_ids(prompt):
        logits, state = step(np.array([token]), state)
    rows = []
    for position, token in enumerate(tokens):
        row = log_softmax(logits)[0]
        top = [_entry(run, int(other), row) for other in np.argsort(-row, kind="stable")[:K]]
        rows.append({"position": position, **_entry(run, token, row), "top_logprobs": top})
        logits, state = step(np.array([token]), state)
    return rows


def _entry(run: Run, token: int, logprobs: Any) -> dict[str, Any]:
    """Return the id, the piece and the log-probability of a token.

    The argument ``logprobs`` contains the log-probabilities of all ids, float64 [V].
    """
    return {"id": token, "token": run.tokenizer.piece(token), "logprob": round(float(logprobs[token]), 6)}
