"""A run seen at work: what a layer does over a text, and which of its cells follow something readable."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_lstmgen.cli import console
from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, splits
from keras_lstmgen.data.token_cache import encode_texts
from keras_lstmgen.files import atomic
from keras_lstmgen.generation import beam_search
from keras_lstmgen.generation.detokenizer import Detokenizer
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.interpret import activations, html_page, probes
from keras_lstmgen.models.inference_step import Weights, each_member
from keras_lstmgen.models.run_directory import Run
from keras_lstmgen.reporting import plots, reporter
from keras_lstmgen.tokenizers.tokenizer import Tokenizer
from keras_lstmgen.utils.errors import UserError, check_at_least

DRAWN = 160  # tokens in a picture, at most
UNITS = 32  # units in a picture, at most
CANDIDATES = 5  # likeliest next tokens that are shown
PROBED = 16_384  # tokens that cells are held against what can be read, at most
EXCERPT = 3_000  # tokens of that text on the page
OWN_TEXTS = 16  # that the model writes where there is no other text


@dataclass(frozen=True)
class Asked:
    """What is to be seen."""

    prompt: str
    max_new_tokens: int = 0
    seed: int = 0
    options: Options = field(default_factory=Options)
    layer: int | None = None  # from 1, the one next to the input; None: the last
    cell: int | None = None  # from 0; None: the one that follows something readable best
    text: Sequence[str] = ()  # files to look for such cells in; none: what the run validates on


class Shown(NamedTuple):
    """A text that the layer was watched over: its last ``EXCERPT`` tokens at most, and its end, which is drawn."""

    ids: Sequence[int]
    cells: NDArray[np.float32]  # [N, H], of these tokens
    trace: activations.Trace  # of the last ones
    written: int  # from which of the last ones on the model wrote


class Probed(NamedTuple):
    """The text that cells were held against."""

    name: str
    parts: Sequence[str]  # the text of each token
    cells: NDArray[np.float32]  # [N, H]
    findings: Sequence[probes.Finding]
    rare: Sequence[str]  # features that the text has too little of


def _watched(model: Run) -> Weights:
    """The weights whose cells are looked at: of an ensemble those of its first member, by itself."""
    return each_member(model.weights)[0]


def _of_the_first(model: Run) -> str:
    """What to say behind the name of a layer."""
    members = len(each_member(model.weights))
    return f" of the first of {members} members" if members > 1 else ""


def inspect(model: Run, asked: Asked, output: Path) -> None:
    """Look, print the tables, write pictures and page into the folder ``output``."""
    layer = _check(model, asked)
    named_layer = f"layer {layer + 1}{_of_the_first(model)}"
    with reporter.status("watching the layer"):
        shown = _shown(model, asked, layer)
        probed = _probed(model, asked, layer)
    best = max(probed.findings, key=lambda finding: finding.margin, default=None)
    found = best.cell if best else _liveliest(shown.trace.cells)[0]
    cell = found if asked.cell is None else asked.cell
    tokens, likeliest = _labels(model.tokenizer, shown.ids)[-len(shown.trace.cells) :], _likeliest(model, shown)
    named = [cell, *(finding.cell for finding in probed.findings)]
    _show_likeliest(tokens, likeliest)
    if _of_the_first(model):
        console.out.print("gates and cells, and where it looks, are of the first member; probabilities of all together")
    _show_findings(probed, named_layer)
    _draw(shown, named_layer, tokens, _units(shown.trace, named), output)
    plots.candidates(output / "next.png", tokens, likeliest, _came(shown), shown.written)
    passages = _passages(model, shown, probed, cell)
    title = f"Cell {cell} of {named_layer}"
    plots.coloured(output / "text.png", title, *passages[1][1:])
    atomic.write_text(output / "text.html", html_page.page(title, _about(probed, cell), passages))
    _show_missing(tokens, likeliest, passages[1])
    console.out.print(
        "units in the pictures: the cells of the table, then those that vary most; above, those that forget least"
    )
    console.out.print(f"pictures, and text coloured by cell {cell} (text.html, text.png): {output}", markup=False)


def _check(model: Run, asked: Asked) -> int:
    """The layer from 0; UserError for what is not there to be seen."""
    layers = _watched(model).cells
    layer = len(layers) if asked.layer is None else asked.layer
    check_at_least("--max-new-tokens", asked.max_new_tokens, 0)
    if not asked.prompt:
        raise UserError("--prompt: is empty; give a text to watch the layer over")
    if not 1 <= layer <= len(layers):
        raise UserError(f"--layer: {layer} is out of range; this model's layers are 1 to {len(layers)}")
    units = int(layers[layer - 1].recurrent.shape[0])
    if asked.cell is not None and not 0 <= asked.cell < units:
        raise UserError(f"--cell: {asked.cell} is out of range; the cells of this layer are 0 to {units - 1}")
    return layer - 1


def _shown(model: Run, asked: Asked, layer: int) -> Shown:
    """All members read: the probabilities are those of the text, the gates those of the first."""
    prompt = model.prompt_ids(asked.prompt)
    ids = [*prompt, *_written(model, asked)]
    first, kept = (max(len(ids) - most, 0) for most in (DRAWN, EXCERPT))
    read, state = activations.reader(model.weights, layer), activations.begin(model.weights)
    for start in range(0, kept, EXCERPT):  # whatever the length of the prompt, its cells are not all held
        _, state = read(ids[start : min(start + EXCERPT, kept)], state)
    before, state = read(ids[kept:first], state)
    trace = activations.trace(model.weights, ids[first:], layer, state)
    return Shown(ids[kept:], np.concatenate([before, trace.cells]), trace, max(len(prompt) - first, 0))


def _written(model: Run, asked: Asked) -> list[int]:
    """What the model goes on with, the text of ``generate`` with the same seed and options."""
    if not asked.max_new_tokens:
        return []
    limit = asked.max_new_tokens
    return Generator(model).generate(asked.prompt, GenerationConfig(limit, asked.options), seeds=[asked.seed])[0].tokens


def _probed(model: Run, asked: Asked, layer: int) -> Probed:
    name, ids = _text(model, asked)
    read, nothing = activations.reader(_watched(model), layer), activations.begin(_watched(model))
    cells = np.concatenate([read(part, nothing)[0] for part in _read_as_trained(model, ids)])
    parts = _parts(model.tokenizer, ids)
    return Probed(name, parts, cells, *probes.follow(cells, probes.features(parts)))


def _read_as_trained(model: Run, ids: list[int]) -> list[NDArray[np.int32]]:
    """The ids in one piece, if the run carries its state over them; else each example, which it begins anew with."""
    whole = np.array(ids, np.int32)
    if model.recipe.carries:
        return [whole]
    return [part for part in np.split(whole, np.flatnonzero(whole == model.metadata.start_id)) if len(part)]


def _text(model: Run, asked: Asked) -> tuple[str, list[int]]:
    """The text that is asked for; else the run's held-out text; else, where that is gone, text of the model's own."""
    settings = model.recipe.corpus
    if asked.text:
        return ", ".join(asked.text), _ids_of_corpus(model, splits.with_validation_texts(settings, asked.text))
    try:
        return f"the run's {splits.validation_kind(settings)}", _ids_of_corpus(
            model, prepared_corpus.source_corpus(settings)
        )
    except UserError as error:
        reporter.message(f"{error}; the model writes a text instead")
        samples = Generator(model).generate(asked.prompt, GenerationConfig(PROBED // OWN_TEXTS), seeds=range(OWN_TEXTS))
        prompt = model.prompt_ids(asked.prompt)
        written = (token for sample in samples for token in (*prompt, *sample.tokens))
        return "text that the model wrote", list(islice(written, PROBED))


def _ids_of_corpus(model: Run, settings: recipe.Corpus) -> list[int]:
    """The first tokens of the validation side, at most ``PROBED``."""
    found: list[int] = []
    for text in splits.pieces(settings, "validation"):
        ids = encode_texts([text], model.tokenizer, settings.documents == "stream")
        found += ids[: PROBED - len(found)].tolist()
        if len(found) == PROBED:
            break
    return found


def _parts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """The text that each token completes: of a character in bytes with the last; a document ends with an empty line."""
    tail = Detokenizer(tokenizer)
    parts = [tail.push(token) + ("\n\n" if token == tokenizer.end_id else "") for token in ids]
    return [*parts[:-1], parts[-1] + tail.flush()]


def _labels(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """What stands at each token in a picture: the text that it completes, or how it is spelled where that is none."""
    tail = Detokenizer(tokenizer)
    return [_visible(tail.push(token)) or tokenizer.piece(token) for token in ids]


def _visible(text: str) -> str:
    """A text as it can be seen: the end of a line, spaces, and what a terminal would take for a command."""
    signs = {"\n": "↵", " ": "␣"}
    return "".join(signs.get(c, c if c.isprintable() else ascii(c)[1:-1]) for c in text)


def _units(trace: activations.Trace, named: Iterable[int]) -> list[int]:
    """The units that are drawn: those named, then those that vary most; that which keeps its cell longest first."""
    chosen = list(dict.fromkeys([*named, *_liveliest(trace.cells)]))[:UNITS]
    return sorted(chosen, key=lambda unit: -float(trace.forget[:, unit].mean()))


def _liveliest(cells: NDArray[np.float32]) -> list[int]:
    return [int(unit) for unit in np.argsort(-cells.std(axis=0), kind="stable")]


def _draw(shown: Shown, layer: str, tokens: list[str], units: list[int], output: Path) -> None:
    heat = partial(plots.heat, tokens=tokens, units=units, written=shown.written)
    for gate in ("forget", "input", "output"):
        values = getattr(shown.trace, gate)[:, units]
        heat(output / f"{gate}.png", f"{layer}, {gate} gate: 0 shut, 1 open", values, signed=False)
    heat(output / "cell.png", f"{layer}, cell", shown.trace.cells[:, units], signed=True)
    if shown.trace.looks is not None:
        plots.looks(output / "looks.png", shown.trace.looks, tokens, shown.written)


def _likeliest(model: Run, shown: Shown) -> list[list[tuple[str, float]]]:
    """The likeliest next tokens after each token that is drawn: (label, probability), equals by id."""
    probabilities = np.exp(beam_search.log_softmax(shown.trace.logits))
    return [
        [(_labels(model.tokenizer, [token])[0], float(row[token])) for token in ids]
        for ids, row in zip(_ranked(shown), probabilities, strict=True)
    ]


def _ranked(shown: Shown) -> list[list[int]]:
    ranked: list[list[int]] = np.argsort(-shown.trace.logits, axis=1, kind="stable")[:, :CANDIDATES].tolist()
    return ranked


def _came(shown: Shown) -> list[int]:
    """Which of the likeliest tokens came next; -1: none of them, or the text ends."""
    ranked = _ranked(shown)
    follows = [*shown.ids[len(shown.ids) - len(ranked) + 1 :], -1]
    return [ids.index(token) if token in ids else -1 for ids, token in zip(ranked, follows, strict=True)]


def _passages(model: Run, shown: Shown, probed: Probed, cell: int) -> list[html_page.Passage]:
    """The texts that a cell colours: the one that was watched, and some of the other's second half."""
    half = slice(start := len(probed.parts) // 2, start + EXCERPT)
    whole = len(shown.ids) < EXCERPT
    watched = "The prompt, and what follows" if whole else f"The last {EXCERPT:,} tokens of the prompt and what follows"
    return [
        html_page.Passage(watched, _parts(model.tokenizer, shown.ids), shown.cells[:, cell]),
        html_page.Passage(f"From {probed.name}", probed.parts[half], probed.cells[half, cell]),
    ]


def _about(probed: Probed, cell: int) -> str:
    follows = [_said(finding) for finding in probed.findings if finding.cell == cell]
    return "; ".join(follows) or "No feature of the table has it as its best cell."


def _said(finding: probes.Finding) -> str:
    return (
        f"{finding.feature}: {finding.measure} {finding.figure:.3f} on text that the cell was not chosen on "
        f"(a constant guess {finding.constant:g}, chance {finding.chance:.3f})"
    )


def _show_likeliest(tokens: list[str], likeliest: list[list[tuple[str, float]]]) -> None:
    """Print the likeliest next tokens."""
    rows = [
        (token, *(f"{label} {share:.0%}" for label, share in row)) for token, row in zip(tokens, likeliest, strict=True)
    ]
    console.table("likeliest next tokens", ("after", *map(str, range(1, len(likeliest[0]) + 1))), rows)


def _show_findings(probed: Probed, layer: str) -> None:
    """Print the cells that follow something readable, and what cannot be told of this text."""
    title = f"cells of {layer} that follow something readable, on {probed.name}: {len(probed.parts):,} tokens"
    rows = [
        (f.feature, f.measure, f.cell, f"{f.figure:.3f}", f"{f.constant:.3f}", f"{f.chance:.3f}")
        for f in sorted(probed.findings, key=lambda finding: -finding.margin)
    ]
    console.table(title, ("feature", "measure", "cell", "second half", "constant guess", "chance"), rows)
    if probed.rare:
        console.out.print(f"too rare in this text to tell: {', '.join(probed.rare)}", markup=False)
    if probes.without_spaces(probed.parts) > 0.5:
        console.out.print(
            "most letters of this text are of a script without spaces between words: what is said of words is said of "
            "the others alone",
            markup=False,
        )


def _show_missing(tokens: list[str], likeliest: list[list[tuple[str, float]]], passage: html_page.Passage) -> None:
    """Print which characters of the pictures no font has."""
    labels = [label for row in likeliest for label, _ in row]
    drawn = "".join(passage.parts)[: plots.COLUMNS * plots.LINES]
    if told := plots.told_of_missing("".join([*tokens, *labels, drawn])):
        console.out.print(told, markup=False)
