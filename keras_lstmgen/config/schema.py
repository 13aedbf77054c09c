"""The fields of a recipe: one frozen dataclass for each table of the TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

AUTO = -1  # the number that represents "auto"; no field accepts it as a number
AUTO_WORD = "auto"
CARRIED, FRESH = "carried", "fresh"  # values of training.state
NONE = "none"  # value of corpus.normalize
TABLE_FORMATS = ("jsonl", "csv", "tsv")  # values of corpus.documents whose documents have named fields


def recipe_field(
    default: Any,
    about: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a field of a recipe.

    Args:
        default: the default value. A number whose default is ``AUTO`` may also be given as ``"auto"``:
            ``auto_sizes`` then selects it from the size of the text.
        about: one line of help, with the unit.
        low: minimum of a number.
        high: maximum of a number.
        choices: valid words of a string.
    """
    return field(default=default, metadata={"about": about, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Corpus:
    """The texts, their division into documents, and the validation split."""

    source: tuple[str, ...] = recipe_field(
        ("pydoc",),
        "texts: files, globs, folders, '-' (standard input), http(s) URLs, addresses such as gs://bucket/*.txt (with "
        "the extra 'remote'), or 'pydoc' (the language reference of Python); gzip is unpacked",
    )
    sha256: tuple[str, ...] = recipe_field((), "SHA-256 of each source, in the order of the sources; required for URLs")
    documents: str = recipe_field(
        "stream",
        "unit that counts as one document",
        choices=("stream", "lines", "blocks", "files", "jsonl", "csv", "tsv", "pairs"),
    )
    field: tuple[str, ...] = recipe_field(
        (),
        "keys of JSONL objects, or names or numbers (from 1) of CSV/TSV columns; of several, the last is the target",
    )
    labels: tuple[str, ...] = recipe_field(
        (), "one label for each source file; the model generates documents conditioned on the label"
    )
    unique: bool = recipe_field(False, "remove duplicate documents in the training and in the validation split")
    normalize: str = recipe_field(
        NONE,
        "Unicode normalization form of the texts and of prompts for the run; exported artifacts do not normalize",
        choices=(NONE, "nfc", "nfkc"),
    )
    validation: tuple[str, ...] = recipe_field((), "validation texts, instead of a part of the source")
    validation_fraction: float = recipe_field(0.1, "fraction of the source used for validation", low=0.0, high=0.9)
    split_seed: int = recipe_field(0, "seed of the hash that assigns documents to training or validation", low=0)

    @property
    def is_pairs(self) -> bool:
        """Whether the documents are pairs of a source and a target."""
        return self.documents == "pairs" or len(self.field) > 1 or bool(self.labels)


@dataclass(frozen=True)
class Tokenizer:
    """The conversion of text to token ids."""

    type: str = recipe_field("char", "unit of text", choices=("char", "word", "bpe", "unigram"))
    vocab_size: int = recipe_field(
        0,
        "vocabulary size without the 256 byte pieces; 0: all characters (char), 20000 (word), 1000 (bpe, unigram)",
        low=0,
        high=1_000_000,
    )


@dataclass(frozen=True)
class Model:
    """The layers of the model: embedding, dropout, LSTM layers, output."""

    embedding_size: int = recipe_field(AUTO, "E, embedding size", low=1, high=65_536)
    units: int = recipe_field(AUTO, "H, units of each LSTM layer", low=1, high=65_536)
    layers: int = recipe_field(AUTO, "L, number of LSTM layers", low=1, high=64)
    dropout: float = recipe_field(
        AUTO, "dropout rate after each LSTM layer, one mask for all time steps of a window", low=0.0, high=0.95
    )
    input_dropout: float = recipe_field(
        AUTO, "dropout rate before the first LSTM layer; auto: at most that of dropout", low=0.0, high=0.95
    )
    embedding_dropout: float = recipe_field(
        AUTO,
        "fraction of the vocabulary whose embeddings are zero in a window; auto: 0, or 0.1 for small subword texts",
        low=0.0,
        high=0.95,
    )
    weight_drop: float = recipe_field(
        0.0, "DropConnect rate of the recurrent weights, one mask for each window", low=0.0, high=0.95
    )
    activation_regularization: float = recipe_field(
        AUTO,
        "weight of the mean squared LSTM output in the loss; its mean squared change between steps gets half of it; "
        "auto: 0, or 2 for small texts in subwords",
        low=0.0,
    )
    attention: int = recipe_field(
        0,
        "M, number of previous time steps that attention over the last LSTM layer can use; 0: no attention",
        low=0,
        high=65_536,
    )
    copy: bool = recipe_field(
        False, "copy tokens by attention (pointer-generator); needs attention, and documents with fresh states"
    )
    members: int = recipe_field(
        1, "K, number of models trained together whose probabilities are averaged (ensemble)", low=1, high=64
    )
    tied: bool = recipe_field(False, "share the weights of embedding and output layer; needs embedding_size = units")


@dataclass(frozen=True)
class Training:
    """The training. It ends at the first limit that it reaches."""

    batch_size: int = recipe_field(AUTO, "B, sequences in a batch", low=1, high=65_536)
    window: int = recipe_field(
        64,
        "T, time steps of backpropagation, in tokens; longer pairs are truncated: the end of the source, or the first "
        "turns of a dialogue",
        low=1,
        high=65_536,
    )
    state: str = recipe_field(
        "auto",
        "initial LSTM state of each document: carried over from the one before, or zero (fresh); auto: fresh if nearly "
        "all documents fit into a window",
        choices=(AUTO_WORD, CARRIED, FRESH),
    )
    random_offsets: bool = recipe_field(
        True, "with a carried state, start each epoch at a random position; false: at the first token"
    )
    source_loss: float = recipe_field(
        0.0, "weight of the source tokens of a pair in the loss; target tokens have 1", low=0.0, high=1.0
    )
    epochs: int = recipe_field(
        AUTO,
        "maximum passes over the text; 0: no limit, then minutes is needed; auto: 0 if minutes is given",
        low=0,
        high=1_000_000,
    )
    minutes: float = recipe_field(
        0.0, "maximum minutes of training; 0: no limit, and the learning rate decays over the epochs", low=0.0
    )
    sampled_softmax: int = recipe_field(
        0,
        "negative samples for each update of the sampled softmax loss; 0: exact loss over the whole vocabulary",
        low=0,
        high=1_000_000,
    )
    optimizer: str = recipe_field("adamw", "update rule", choices=("adamw", "adam"))
    learning_rate: float = recipe_field(4e-3, "maximum learning rate, reached after the warm-up", low=0.0, high=10.0)
    warmup: float = recipe_field(
        0.03, "fraction of the training in which the learning rate rises from 0", low=0.0, high=1.0
    )
    weight_decay: float = recipe_field(0.01, "decoupled weight decay of AdamW", low=0.0, high=10.0)
    clip_norm: float = recipe_field(1.0, "maximum global norm of the gradients; 0: no clipping", low=0.0)
    average: int = recipe_field(
        0,
        "number of updates over which the validated and saved weights are averaged; 0: no averaging",
        low=0,
        high=1_000_000,
    )
    patience: int = recipe_field(
        3, "stop after this many epochs without a lower validation loss; 0: no early stopping", low=0
    )
    precision: str = recipe_field(
        "auto",
        "dtype of the operands of the LSTM's matrix products; auto: bfloat16 on processors that are faster with it; on "
        "a GPU float32",
        choices=("auto", "float32", "bfloat16"),
    )
    seed: int = recipe_field(0, "seed of the initial weights, dropout and random offsets", low=0, high=2**31 - 1)


@dataclass(frozen=True)
class Export:
    """The exported artifacts, and the size of their comparison with Keras."""

    formats: tuple[str, ...] = recipe_field(
        ("saved_model", "tflite", "onnx"),
        "artifacts to export",
        choices=("saved_model", "tflite", "tflite_float16", "tflite_int8", "onnx", "web"),
    )
    texts: int = recipe_field(100, "number of texts that each artifact must generate like Keras", low=1, high=1_000_000)
    tokens: int = recipe_field(200, "tokens of each of these texts", low=1, high=1_000_000)


@dataclass(frozen=True)
class Evaluate:
    """The metrics that ``evaluate`` reports in addition to the loss."""

    measures: tuple[str, ...] = recipe_field(
        (),
        "metrics of generated answers (pairs), of samples for a label (labels) or of poems (documents); ngram: "
        "baseline of a character n-gram model (stream)",
        choices=("bleu", "rouge", "exact_match", "recall", "distinct_2", "kind", "verses", "ngram"),
    )
    beams: int = recipe_field(
        0, "beams of a beam search that is evaluated in addition to greedy decoding; 0: none", low=0, high=1_000
    )
    length_penalty: float = recipe_field(
        0.0, "length penalty of the beam search; above 0, longer answers score higher", low=0.0, high=10.0
    )


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. The field names are the tables of the TOML file."""

    corpus: Corpus = Corpus()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    training: Training = Training()
    export: Export = Export()
    evaluate: Evaluate = Evaluate()

    @property
    def carries(self) -> bool:
        """Whether the LSTM state is carried over from document to document; otherwise each one starts from zero."""
        return not self.corpus.is_pairs and self.training.state != FRESH


SECTIONS: dict[str, type[Any]] = {
    "corpus": Corpus, "tokenizer": Tokenizer, "model": Model, "training": Training, "export": Export,
    "evaluate": Evaluate,
}  # fmt: skip


def recipe_fields() -> dict[str, tuple[Any, Any, Mapping[str, Any]]]:
    """Return type, default and metadata of each field, by its dotted name.

    >>> recipe_fields()["model.units"][:2]
    (<class 'int'>, -1)
    """
    hints = {section: get_type_hints(table) for section, table in SECTIONS.items()}
    return {
        f"{section}.{entry.name}": (hints[section][entry.name], entry.default, entry.metadata)
        for section, table in SECTIONS.items()
        for entry in fields(table)
    }
