"""The recipe: every choice of a run in one small TOML file, a table for each stage.

What a recipe leaves out has the default below; ``keras-lstmgen train --help`` lists them all. A default ``"auto"`` is
chosen from the size of the text (``defaults``). Every value can be given on the command line too, as
``--model.units 512``. A recipe is data: nothing in it is ever executed.
"""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tomli_w

from keras_lstmgen.utils.errors import UserError

AUTO = -1  # how a number that a recipe gives as "auto" is held; no knob takes it as a number
AUTO_WORD = "auto"
CARRIED, FRESH = "carried", "fresh"  # of training.state
NONE = "none"  # of corpus.normalize
LARGEST = 2**53  # of a number whose knob has no bound of its own: whole numbers up to it are exact everywhere


def recipe_field(
    default: Any,
    about: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A value of a recipe: its default, one line of help with the unit, and the range or the words it may take.

    A number whose default is AUTO may be given as ``"auto"``: ``defaults`` chooses it from the size of the text.
    """
    return field(default=default, metadata={"about": about, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Corpus:
    """Where the text is, what counts as one document, and what is held out."""

    source: tuple[str, ...] = recipe_field(
        ("pydoc",),
        "'pydoc', files, globs, folders, '-' (standard input), http(s) URLs, addresses such as "
        "gs://bucket/*.txt (needs the extra 'remote'); gzip is unpacked",
    )
    sha256: tuple[str, ...] = recipe_field((), "checksums of the sources in their order; a URL needs one")
    documents: str = recipe_field(
        "stream",
        "what one document is",
        choices=("stream", "lines", "blocks", "files", "jsonl", "csv", "tsv", "pairs"),
    )
    field: tuple[str, ...] = recipe_field(
        (), "fields of a JSONL object, or names or numbers (from 1) of CSV/TSV columns; of several the last is a target"
    )
    labels: tuple[str, ...] = recipe_field((), "a word for each source: what its documents are the targets of")
    unique: bool = recipe_field(False, "of equal documents the first alone counts, on each side of the split")
    normalize: str = recipe_field(
        NONE,
        "Unicode form that the text and prompts typed here are brought to; an artifact takes a prompt as it is",
        choices=(NONE, "nfc", "nfkc"),
    )
    validation: tuple[str, ...] = recipe_field((), "files to validate on, instead of a part of the source")
    validation_fraction: float = recipe_field(0.1, "part of the source held out for validation", low=0.0, high=0.9)
    split_seed: int = recipe_field(0, "seed of the hash that sends a document to training or validation", low=0)

    @property
    def is_pairs(self) -> bool:
        """Whether its documents are pairs of a source and a target that answers it."""
        return self.documents == "pairs" or len(self.field) > 1 or bool(self.labels)


@dataclass(frozen=True)
class Tokenizer:
    """How text becomes ids."""

    type: str = recipe_field("char", "unit of text", choices=("char", "word", "bpe", "unigram"))
    vocab_size: int = recipe_field(
        0,
        "entries in the vocabulary, byte pieces left out; 0: char all, word 20000, bpe and unigram 1000",
        low=0,
        high=1_000_000,
    )


@dataclass(frozen=True)
class Model:
    """The Sequential: Embedding, dropout, LSTM layers, output."""

    embedding_size: int = recipe_field(AUTO, "E, numbers a token is embedded in", low=1, high=65_536)
    units: int = recipe_field(AUTO, "H, units of each LSTM layer", low=1, high=65_536)
    layers: int = recipe_field(AUTO, "L, LSTM layers", low=1, high=64)
    dropout: float = recipe_field(
        AUTO, "share of features dropped, one mask for all steps of a window", low=0.0, high=0.95
    )
    input_dropout: float = recipe_field(
        AUTO, "the same before the first LSTM; auto: as dropout, or less", low=0.0, high=0.95
    )
    embedding_dropout: float = recipe_field(
        AUTO, "share of ids whose embedding is dropped for a window; auto: none, or some for a small text in subwords",
        low=0.0, high=0.95,
    )  # fmt: skip
    weight_drop: float = recipe_field(
        0.0, "share of each LSTM's recurrent weights dropped, one mask a window", low=0.0, high=0.95
    )
    activation_regularization: float = recipe_field(
        AUTO, "added to the loss: so many times the mean squared output, half of it of its change a step; auto: some "
        "for a small text in subwords, else none",
        low=0.0,
    )  # fmt: skip
    attention: int = recipe_field(
        0,
        "M, latest states of its own text that each step attends to, after the last LSTM; 0: none",
        low=0,
        high=65_536,
    )
    copy: bool = recipe_field(
        False, "write what the attention looks at again, token for token; where nothing is carried over"
    )
    members: int = recipe_field(
        1, "K, models trained side by side, whose probabilities are averaged: K times the work", low=1, high=64
    )
    tied: bool = recipe_field(False, "output layer shares the embedding's weights (needs embedding_size = units)")


@dataclass(frozen=True)
class Training:
    """How the weights are found. It ends at whichever limit comes first."""

    batch_size: int = recipe_field(AUTO, "B, streams read side by side", low=1, high=65_536)
    window: int = recipe_field(
        64, "T, time steps the gradient flows back; of a pair the most tokens: longer sources lose their end, "
        "those of several turns what comes first",
        low=1, high=65_536,
    )  # fmt: skip
    state: str = recipe_field(
        "auto",
        "what a document finds: the state that the one before it has left, or none; auto: none where nearly all fit "
        "into a window",
        choices=(AUTO_WORD, CARRIED, FRESH),
    )
    random_offsets: bool = recipe_field(
        True, "where state is carried each epoch begins somewhere else; false: at the first token"
    )
    source_loss: float = recipe_field(
        0.0, "weight of a pair's source in the loss, where its target has 1", low=0.0, high=1.0
    )
    epochs: int = recipe_field(
        AUTO,
        "passes over the text; 0: no limit (then minutes is one), and so is auto where minutes is given",
        low=0,
        high=1_000_000,
    )
    minutes: float = recipe_field(
        0.0, "minutes of training; 0: no limit (the rate then decays over the epochs alone)", low=0.0
    )
    sampled_softmax: int = recipe_field(
        0,
        "ids drawn, beside the targets, to estimate the loss of an update from; 0: exact, from the whole vocabulary",
        low=0,
        high=1_000_000,
    )
    optimizer: str = recipe_field("adamw", "update rule", choices=("adamw", "adam"))
    learning_rate: float = recipe_field(4e-3, "highest rate, after the warm-up", low=0.0, high=10.0)
    warmup: float = recipe_field(0.03, "part of the training in which the rate rises from 0", low=0.0, high=1.0)
    weight_decay: float = recipe_field(0.01, "AdamW's decoupled weight decay", low=0.0, high=10.0)
    clip_norm: float = recipe_field(1.0, "largest global norm of the gradient; 0: no clipping", low=0.0)
    average: int = recipe_field(
        0,
        "updates over which weights are averaged for validation and for what is saved; 0: as they are",
        low=0,
        high=1_000_000,
    )
    patience: int = recipe_field(
        3, "epochs without a better validation loss before it stops; 0: never stops early", low=0
    )
    precision: str = recipe_field(
        "auto",
        "operands of the LSTM's products; auto: bfloat16 where the processor gains by it; on a GPU float32",
        choices=("auto", "float32", "bfloat16"),
    )
    seed: int = recipe_field(0, "seed of weights, dropout and offsets", low=0, high=2**31 - 1)


@dataclass(frozen=True)
class Export:
    """Which artifacts are written, and how hard each is tried against Keras."""

    formats: tuple[str, ...] = recipe_field(
        ("saved_model", "tflite", "onnx"),
        "artifacts to write",
        choices=("saved_model", "tflite", "tflite_float16", "tflite_int8", "onnx", "web"),
    )
    texts: int = recipe_field(100, "texts that each artifact must write as Keras does", low=1, high=1_000_000)
    tokens: int = recipe_field(200, "tokens in each of those texts", low=1, high=1_000_000)


@dataclass(frozen=True)
class Evaluate:
    """What ``evaluate`` measures beside the loss."""

    measures: tuple[str, ...] = recipe_field(
        (),
        "what is measured of answers (of pairs), of samples of a kind (of labels) or of poems (of documents); ngram: "
        "what counting characters reaches (of a stream)",
        choices=("bleu", "rouge", "exact_match", "recall", "distinct_2", "kind", "verses", "ngram"),
    )
    beams: int = recipe_field(
        0, "width of a beam search whose answers are measured beside the greedy ones; 0: none", low=0, high=1_000
    )
    length_penalty: float = recipe_field(
        0.0, "of that search, above 0: longer answers score better; 0: an answer scores what its tokens do",
        low=0.0, high=10.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """All of it. Field names are the tables of the TOML file."""

    corpus: Corpus = Corpus()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    training: Training = Training()
    export: Export = Export()
    evaluate: Evaluate = Evaluate()

    @property
    def carries(self) -> bool:
        """Whether the state goes on from text to text; else each document, each pair, is read by itself."""
        return not self.corpus.is_pairs and self.training.state != FRESH


SECTIONS: dict[str, type[Any]] = {
    "corpus": Corpus, "tokenizer": Tokenizer, "model": Model, "training": Training, "export": Export,
    "evaluate": Evaluate,
}  # fmt: skip


def recipe_fields() -> dict[str, tuple[Any, Any, Mapping[str, Any]]]:
    """Every value by its dotted name: ``{"model.units": (int, 256, {"about": ...}), ...}``."""
    hints = {section: get_type_hints(kind) for section, kind in SECTIONS.items()}
    return {
        f"{section}.{field.name}": (hints[section][field.name], field.default, field.metadata)
        for section, kind in SECTIONS.items()
        for field in fields(kind)
    }


def load(path: Path) -> Recipe:
    """Read a recipe from TOML. An unknown key is an error that names the nearest valid one."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such recipe") from None
    except (OSError, ValueError, RecursionError) as error:  # of TOML, UTF-8, numbers too long, tables too deep
        reason = "a number has too many digits" if "int_max_str_digits" in str(error) else error
        raise UserError(
            f"{path}: is not TOML ({reason}); correct the recipe, or give a text that is called so by --corpus.source"
        ) from error
    return parse(tables, where=f"{path}: ")


def parse(tables: Mapping[str, Any], where: str = "") -> Recipe:
    """Make a recipe of nested tables as TOML and JSON give them."""
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise UserError(f"{where}unknown key '{name}'; a recipe has the tables {', '.join(SECTIONS)}")
    values = {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
    return override(Recipe(), values, where)


def override(recipe: Recipe, values: Mapping[str, Any], where: str = "") -> Recipe:
    """Replace values by dotted name, ``{"model.units": 512}``, checking name, type and range, then the whole."""
    known = recipe_fields()
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}unknown key '{name}'; the nearest is '{nearest(name, list(known))}'")
        section, key = name.split(".")
        part = replace(getattr(recipe, section), **{key: _checked(where + name, value, known[name])})
        recipe = replace(recipe, **{section: part})
    _check_together(recipe, where)
    return recipe


def nearest(word: str, words: list[str]) -> str:
    """The most similar of ``words``: ``nearest("model.unit", ["model.units", "model.tied"]) == "model.units"``."""
    return max(words, key=lambda known: difflib.SequenceMatcher(None, word, known).ratio())


def _checked(where: str, value: Any, known: tuple[Any, Any, Mapping[str, Any]]) -> Any:
    kind, default, limits = known
    if default == AUTO and value == AUTO_WORD:
        return AUTO
    value = _typed(where, value, kind)
    for word in value if isinstance(value, tuple) else (value,):
        if limits["choices"] and word not in limits["choices"]:
            raise UserError(f"{where}: '{word}' is not one of {', '.join(limits['choices'])}")
    low, high = limits["low"], limits["high"]
    if low is not None and not (low <= value <= (LARGEST if high is None else high) and math.isfinite(value)):
        bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:.10g}"
        raise UserError(f"{where}: {_shown(value)} is out of range; give a number {bounds}")
    return value


def _typed(where: str, value: Any, kind: Any) -> Any:
    """Bring a TOML value to the type of its field; a single word counts as a list of one."""
    if get_args(kind):
        words = ([value] if value else []) if isinstance(value, str) else value
        if isinstance(words, list | tuple) and all(isinstance(word, str) for word in words):
            return tuple(words)
    elif kind is float and type(value) is int and abs(value) <= LARGEST:
        return float(value)
    elif type(value) is kind:
        return value
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    raise UserError(f"{where}: {_shown(value)} is not {words.get(kind, 'a list of strings')}")


def _shown(value: Any) -> str:
    """A value in a message: some lists and numbers are too long for one, or for Python to spell."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "what stands there"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _check_together(recipe: Recipe, where: str) -> None:
    """The rules that bind two values."""
    sizes = {recipe.model.embedding_size, recipe.model.units} - {AUTO}
    if recipe.model.tied and len(sizes) == 2:
        raise UserError(
            f"{where}model.tied needs model.embedding_size = model.units, "
            f"not {recipe.model.embedding_size} and {recipe.model.units}"
        )
    if not recipe.training.epochs and not recipe.training.minutes:
        raise UserError(f"{where}training.epochs and training.minutes are both 0: give one limit")
    _check_copy(recipe, where)
    _check_corpus(recipe.corpus, where)
    _check_pairs(recipe, where)
    _check_measures(recipe, where)
    for name in ("training.sampled_softmax", "model.activation_regularization") if recipe.model.members > 1 else ():
        section, key = name.split(".")
        if getattr(getattr(recipe, section), key) > 0:
            raise UserError(f"{where}{name} does not go with model.members above 1; leave one of them out")


def _check_copy(recipe: Recipe, where: str) -> None:
    """What copying needs, and what it does not go with."""
    if not recipe.model.copy:
        return
    if not recipe.model.attention:
        raise UserError(f"{where}model.copy writes what the attention looks at: give model.attention")
    if recipe.carries:
        raise UserError(f"{where}model.copy needs texts read by themselves: pairs, or training.state = 'fresh'")
    if recipe.model.members > 1 or recipe.training.sampled_softmax:
        name = "model.members above 1" if recipe.model.members > 1 else "training.sampled_softmax"
        raise UserError(f"{where}model.copy does not go with {name}; leave one of them out")


def _check_corpus(corpus: Corpus, where: str) -> None:
    """The rules of sources and documents."""
    if not corpus.source:
        raise UserError(f"{where}corpus.source is empty: name a text")
    if len(corpus.sha256) not in (0, len(corpus.source)):
        raise UserError(f"{where}corpus.sha256 has {len(corpus.sha256)} checksums for {len(corpus.source)} sources")
    if corpus.documents in ("jsonl", "csv", "tsv") and not corpus.field:
        raise UserError(f"{where}corpus.documents = '{corpus.documents}' needs corpus.field")
    if not all(label.strip() for label in corpus.labels):
        raise UserError(f"{where}corpus.labels has a blank word: give each kind of document a word to be asked for by")
    if corpus.documents == "stream" and corpus.unique:
        raise UserError(f"{where}corpus.unique needs documents: a stream is one; give corpus.documents")


def _check_pairs(recipe: Recipe, where: str) -> None:
    """The rules of pairs."""
    corpus = recipe.corpus
    if len(corpus.field) > 1 and corpus.documents not in ("jsonl", "csv", "tsv"):
        raise UserError(f"{where}corpus.field has {len(corpus.field)} names: documents = '{corpus.documents}' has none")
    if corpus.labels and corpus.documents == "stream":
        raise UserError(f"{where}corpus.labels needs documents: give corpus.documents, lines for example")
    for name in ("source", "validation") if corpus.labels else ():
        sources = getattr(corpus, name)
        if sources and len(sources) != len(corpus.labels):
            raise UserError(f"{where}corpus.labels has {len(corpus.labels)} words for {len(sources)} in corpus.{name}")
    if not recipe.carries and recipe.training.sampled_softmax:
        what = "pairs of source and target" if corpus.is_pairs else "training.state = 'fresh'"
        raise UserError(f"{where}training.sampled_softmax does not go with {what}; leave it out")
    of_others = {"stream": FRESH} if corpus.documents == "stream" else {"pairs": CARRIED} if corpus.is_pairs else {}
    for kind, state in of_others.items():
        if recipe.training.state == state:
            raise UserError(
                f"{where}training.state = '{state}' does not go with corpus.documents = '{kind}'; leave it out"
            )


def _check_measures(recipe: Recipe, where: str) -> None:
    """Which texts a measure is of."""
    corpus = recipe.corpus
    for name in recipe.evaluate.measures:
        if name == "kind" and not corpus.labels:
            raise UserError(f"{where}evaluate.measures: 'kind' needs corpus.labels, a word for each kind of document")
        poems = bool(corpus.labels) or not corpus.is_pairs
        if name == "verses" and (not poems or corpus.documents == "stream"):
            raise UserError(f"{where}evaluate.measures: 'verses' needs a poem a document: corpus.documents = 'lines'")
        if name == "ngram" and corpus.documents != "stream":
            raise UserError(f"{where}evaluate.measures: 'ngram' needs one text: corpus.documents = 'stream'")
        if name not in ("kind", "verses", "ngram") and not corpus.is_pairs:
            raise UserError(f"{where}evaluate.measures: '{name}' needs pairs of source and target: corpus.documents")


def to_tables(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The recipe as plain tables, for JSON and TOML: tuples become lists."""
    return {name: {key: _plain(value) for key, value in table.items()} for name, table in asdict(recipe).items()}


def _plain(value: Any) -> Any:
    if value == AUTO:
        return AUTO_WORD
    return list(value) if isinstance(value, tuple) else value


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML; ``parse(tomllib.loads(to_toml(r))) == r``."""
    return tomli_w.dumps(to_tables(recipe))
