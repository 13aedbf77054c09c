"""Inspect a run.

An inspection contains the activations of a layer, the most likely next tokens, and the best cell for each feature of a
text. An example of a feature is whether a token is inside quotes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, splits
from keras_lstmgen.data.token_cache import encode_texts
from keras_lstmgen.generation import beam_search
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.interpret import activations, probes, token_texts
from keras_lstmgen.models.inference_step import Weights, each_member
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.reporting import reporter
from keras_lstmgen.utils.errors import UserError, check_at_least

MAX_DRAWN_TOKENS = 160  # maximum number of tokens in a picture
MAX_EXCERPT_TOKENS = 3_000  # maximum number of tokens of a text on the HTML page
MAX_PROBED_TOKENS = 16_384  # maximum number of tokens of the text in which features are searched
NEXT_TOKENS = 5  # number of most likely next tokens that are reported
GENERATED_TEXTS = 16  # number of texts that the model generates if no other text is available for the search

Array = NDArray[np.float32]
NextTokens = list[tuple[str, float]]  # labels and probabilities of tokens, sorted by decreasing probability


@dataclass(frozen=True)
class InspectOptions:
    """The text, the layer and the cell to inspect."""

    prompt: str
    max_new_tokens: int = 0  # maximum number of tokens that the model appends to the prompt
    seed: int = 0
    options: Options = field(default_factory=Options)  # sampling options for the appended tokens
    layer: int | None = None  # number of the layer, from 1 (the first layer); None selects the last layer
    cell: int | None = None  # index of the cell, from 0; None selects the cell that follows a feature best
    text: Sequence[str] = ()  # texts in which features are searched; empty for the validation text of the run


class WatchedText(NamedTuple):
    """The prompt with its continuation, and the activations of the layer while the model reads this text.

    Attributes:
        ids: ids of the last N tokens of the text. N is at most ``MAX_EXCERPT_TOKENS``.
        parts: text of each of the N tokens.
        cells: cell states after each of the N tokens, float32 of shape [N, H].
        trace: all activations after each of the last D tokens. D is at most ``MAX_DRAWN_TOKENS``.
        labels: visible label of each of the last D tokens.
        first_generated: index of the first generated token among the last D tokens.
    """

    ids: Sequence[int]
    parts: Sequence[str]
    cells: Array
    trace: activations.Trace
    labels: Sequence[str]
    first_generated: int


class ProbedText(NamedTuple):
    """The text in which features were searched, and the cells that follow these features.

    Attributes:
        name: name of the text.
        parts: text of each of N tokens.
        cells: cell states after each of the N tokens, float32 of shape [N, H].
        findings: the best cell of each feature, sorted by decreasing margin.
        rare: names of the features that occur too rarely in the text.
    """

    name: str
    parts: Sequence[str]
    cells: Array
    findings: Sequence[probes.Finding]
    rare: Sequence[str]


@dataclass(frozen=True)
class Inspection:
    """The result of ``inspect``.

    Attributes:
        layer: name of the layer.
        members: number of members of the ensemble. The activations are those of the first member.
        watched: the prompt with its continuation, and the activations.
        next_tokens: the most likely next tokens after each of the D tokens in ``watched.labels``.
        actual_ranks: for each of the D tokens, the index of the actual next token in ``next_tokens``. The index is -1
            if ``next_tokens`` does not contain the actual next token. The index of the last token is also -1, because
            no token follows it.
        probed: the text in which features were searched, and the results of the search.
        cell: index of the selected cell.
    """

    layer: str
    members: int
    watched: WatchedText
    next_tokens: list[NextTokens]
    actual_ranks: list[int]
    probed: ProbedText
    cell: int


def inspect(run: Run, options: InspectOptions) -> Inspection:
    """Record the activations of a layer, and search for cells that follow a feature of a text.

    The activations are recorded while the model reads the prompt and its continuation.

    Args:
        run: the run.
        options: the prompt, the layer and the cell to inspect.

    Raises:
        UserError: if an option is out of range, or if a text cannot be read.
    """
    layer = _checked_layer(run, options)
    with reporter.status("recording the activations of the layer"):
        watched = _watch(run, options, layer)
        probed = _probe(run, options, layer)
    ranked = np.argsort(-watched.trace.logits, axis=1, kind="stable")[:, :NEXT_TOKENS]
    return Inspection(
        layer=layer_name(run, layer),
        members=len(each_member(run.weights)),
        watched=watched,
        next_tokens=_next_tokens(run, watched, ranked),
        actual_ranks=_actual_ranks(watched, ranked),
        probed=probed,
        cell=_selected_cell(watched, probed) if options.cell is None else options.cell,
    )


def layer_name(run: Run, layer: int) -> str:
    """Return the name of a layer, such as ``"layer 1"`` or ``"layer 1 of the first of 2 members"``.

    Args:
        run: the run.
        layer: index of the layer, from 0. In the name, layers are numbered from 1.
    """
    members = len(each_member(run.weights))
    return f"layer {layer + 1}" + (f" of the first of {members} members" if members > 1 else "")


def most_variable(cells: Array) -> list[int]:
    """Return the indices of all cells, sorted by decreasing standard deviation.

    Args:
        cells: float array of shape [N, H] with the states of H cells after N tokens.

    >>> import numpy as np
    >>> from keras_lstmgen.interpret.inspect_run import most_variable
    >>> most_variable(np.array([[0.0, -1.0, 0.5], [0.1, 1.0, 0.5]]))
    [1, 0, 2]
    """
    return [int(cell) for cell in np.argsort(-cells.std(axis=0), kind="stable")]


def _checked_layer(run: Run, options: InspectOptions) -> int:
    """Return the index of the layer, from 0, or raise UserError if an option is out of range."""
    layers = _first_member(run).cells
    layer = len(layers) if options.layer is None else options.layer
    check_at_least("--max-new-tokens", options.max_new_tokens, 0)
    if not options.prompt:
        raise UserError("--prompt: is empty; give a text for the model to read")
    if not 1 <= layer <= len(layers):
        raise UserError(f"--layer: {layer} is out of range; this model's layers are 1 to {len(layers)}")
    units = int(layers[layer - 1].recurrent.shape[0])
    if options.cell is not None and not 0 <= options.cell < units:
        raise UserError(f"--cell: {options.cell} is out of range; the cells of this layer are 0 to {units - 1}")
    return layer - 1


def _first_member(run: Run) -> Weights:
    """Return the weights of the first member of an ensemble, or of a single model."""
    return each_member(run.weights)[0]


def _watch(run: Run, options: InspectOptions, layer: int) -> WatchedText:
    """Record the activations of a layer for the last tokens of the prompt and its continuation."""
    prompt = run.prompt_ids(options.prompt)
    ids = [*prompt, *_continuation(run, options)]
    first_drawn, first_kept = (max(len(ids) - limit, 0) for limit in (MAX_DRAWN_TOKENS, MAX_EXCERPT_TOKENS))
    read, state = activations.cell_reader(run.weights, layer), activations.initial_state(run.weights)
    # The tokens before the excerpt are read in pieces, so that memory use does not grow with the length of the prompt.
    for start in range(0, first_kept, MAX_EXCERPT_TOKENS):
        _, state = read(ids[start : min(start + MAX_EXCERPT_TOKENS, first_kept)], state)
    before, state = read(ids[first_kept:first_drawn], state)
    trace = activations.trace(run.weights, ids[first_drawn:], layer, state)
    kept = ids[first_kept:]
    return WatchedText(
        ids=kept,
        parts=token_texts.parts(run.tokenizer, kept),
        cells=np.concatenate([before, trace.cells]),
        trace=trace,
        labels=token_texts.labels(run.tokenizer, kept)[-len(trace.cells) :],
        first_generated=max(len(prompt) - first_drawn, 0),
    )


def _continuation(run: Run, options: InspectOptions) -> list[int]:
    """Generate the same continuation of the prompt as ``generate`` with the same seed and options."""
    if not options.max_new_tokens:
        return []
    config = GenerationConfig(options.max_new_tokens, options.options)
    return Generator(run).generate(options.prompt, config, seeds=[options.seed])[0].tokens


def _next_tokens(run: Run, watched: WatchedText, ranked: NDArray[np.intp]) -> list[NextTokens]:
    """Return the label and the probability of each token in ``ranked``.

    Args:
        run: the run.
        watched: the text and its activations.
        ranked: integer array of shape [D, K] with the ids of the K most likely next tokens after each of D tokens.
    """
    probabilities = np.exp(beam_search.log_softmax(watched.trace.logits))
    return [
        [(token_texts.labels(run.tokenizer, [token])[0], float(row[token])) for token in ids]
        for ids, row in zip(ranked.tolist(), probabilities, strict=True)
    ]


def _actual_ranks(watched: WatchedText, ranked: NDArray[np.intp]) -> list[int]:
    """For each token, return the index of the actual next token in ``ranked``.

    The index is -1 if ``ranked`` does not contain the actual next token. The index of the last token of the text is
    also -1, because no token follows it.

    Args:
        watched: the text and its activations.
        ranked: integer array of shape [D, K] with the ids of the K most likely next tokens after each of D tokens.
    """
    actual = [*watched.ids[len(watched.ids) - len(ranked) + 1 :], -1]
    return [ids.index(token) if token in ids else -1 for ids, token in zip(ranked.tolist(), actual, strict=True)]


def _probe(run: Run, options: InspectOptions, layer: int) -> ProbedText:
    """Search a layer of the first member for cells that follow a feature of a text."""
    name, ids = _probed_ids(run, options)
    weights = _first_member(run)
    read, state = activations.cell_reader(weights, layer), activations.initial_state(weights)
    cells = np.concatenate([read(part, state)[0] for part in _read_as_trained(run, ids)])
    parts = token_texts.parts(run.tokenizer, ids)
    findings, rare = probes.find_cells(cells, probes.features(parts))
    return ProbedText(name, parts, cells, sorted(findings, key=lambda finding: -finding.margin), rare)


def _read_as_trained(run: Run, ids: list[int]) -> list[NDArray[np.int32]]:
    """Split ids at the positions at which training resets the LSTM state to zero.

    If training carries the state over the whole text, the result is one part.
    """
    stream = np.array(ids, np.int32)
    if run.recipe.carries:
        return [stream]
    return [part for part in np.split(stream, np.flatnonzero(stream == run.metadata.start_id)) if len(part)]


def _probed_ids(run: Run, options: InspectOptions) -> tuple[str, list[int]]:
    """Return the name and the ids of the text in which features are searched.

    The options can name the text. By default, the text is the validation text of the run, or generated text if the
    validation text cannot be read.
    """
    corpus = run.recipe.corpus
    if options.text:
        return ", ".join(options.text), _validation_ids(run, splits.with_validation_texts(corpus, options.text))
    try:
        return f"the run's {splits.validation_kind(corpus)}", _validation_ids(
            run, prepared_corpus.source_corpus(corpus)
        )
    except UserError as error:
        reporter.message(f"{error}; using text that the model generates instead")
        config = GenerationConfig(MAX_PROBED_TOKENS // GENERATED_TEXTS)
        samples = Generator(run).generate(options.prompt, config, seeds=range(GENERATED_TEXTS))
        prompt = run.prompt_ids(options.prompt)
        ids = (token for sample in samples for token in (*prompt, *sample.tokens))
        return "text that the model generated", list(islice(ids, MAX_PROBED_TOKENS))


def _validation_ids(run: Run, corpus: recipe.Corpus) -> list[int]:
    """Return the ids of the first ``MAX_PROBED_TOKENS`` tokens of the validation text."""
    ids: list[int] = []
    for text in splits.pieces(corpus, "validation"):
        new = encode_texts([text], run.tokenizer, corpus.documents == "stream")
        ids += new[: MAX_PROBED_TOKENS - len(ids)].tolist()
        if len(ids) == MAX_PROBED_TOKENS:
            break
    return ids


def _selected_cell(watched: WatchedText, probed: ProbedText) -> int:
    """Return the cell with the largest margin, or the most variable cell if no feature was measured."""
    return probed.findings[0].cell if probed.findings else most_variable(watched.trace.cells)[0]
