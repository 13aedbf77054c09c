"""Format generated texts as lines of JSON, for ``generate --json`` and ``generate --prompts``."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from keras_lstmgen.api.generation_options import Plan
from keras_lstmgen.api.loaded_model import LoadedModel
from keras_lstmgen.generation.growing_text import Sample


def records(model: LoadedModel, prompt: str, plan: Plan, samples: Sequence[Sample]) -> Iterator[str]:
    """Yield one line of JSON per text.

    The keys are ``prompt``, ``text``, ``tokens`` (ids), ``finish_reason`` and ``seed``. A text of a beam search has the
    key ``score`` instead of ``seed``. There are also ``note`` if there is a note about the text, and ``logprobs`` if
    the option ``logprobs`` is given.

    Args:
        model: the model that generated the texts.
        prompt: the prompt.
        plan: the options.
        samples: the texts.
    """
    for number, sample in enumerate(samples):
        record: dict[str, Any] = {"prompt": prompt, "text": sample.text, "tokens": sample.tokens}
        record["finish_reason"] = sample.finish_reason
        record |= {"seed": plan.options.seed + number} if sample.score is None else {"score": sample.score}
        if sample.note:
            record["note"] = sample.note
        if plan.options.logprobs is not None:
            record["logprobs"] = model.token_logprobs(prompt, sample, plan.options.logprobs)
        yield json.dumps(record, ensure_ascii=False)
