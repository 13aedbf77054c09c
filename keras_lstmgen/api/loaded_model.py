"""A loaded run with its compiled decoding functions."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from keras_lstmgen.api.generation_options import Plan
from keras_lstmgen.api.token_logprobs import token_logprobs
from keras_lstmgen.data import splits
from keras_lstmgen.generation import decoding_loop, text_generation
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.generation.logits_processors import HostOptions
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models.run_directory import Run

Emit = Callable[[int, str], None]  # a function that receives the index of a text and the next part of this text


class LoadedModel:
    """A loaded run with its compiled decoding functions.

    The first text compiles the functions, and later texts reuse them. No method changes the object, so several threads
    can use it at the same time.

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
            prompt: the prompt. It is normalized as the training text.
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

    def token_logprobs(self, prompt: str, sample: Sample, K: int) -> list[dict[str, Any]]:
        """Return the log-probability and the K most likely tokens for each token of a sample (``token_logprobs``)."""
        return token_logprobs(self.run, self._step, self._normalized(prompt), sample.tokens, K)

    def _normalized(self, prompt: str) -> str:
        """Return a prompt after the Unicode normalization of the training text."""
        return splits.normalized_prompt(prompt, self.run.recipe.corpus)

    def _config(self, plan: Plan) -> GenerationConfig:
        """Return the settings of the sampling with normalized stop strings."""
        return replace(plan.config, stop=[splits.normalized(text, self.run.recipe.corpus) for text in plan.config.stop])
