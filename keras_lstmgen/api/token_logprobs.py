"""Compute the log-probability of each token of a text, and the most likely tokens at its position."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lstmgen.generation.beam_search import log_softmax
from keras_lstmgen.generation.decoding_loop import Step
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.utils.errors import check_at_least


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
