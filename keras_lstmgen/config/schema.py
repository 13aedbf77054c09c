"""Define the fields of a recipe, with one frozen dataclass for each table of the TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

AUTO = -1  # represents "auto" in a field for numbers; -1 is not a valid number for any of these fields
AUTO_WORD = "auto"
CARRIED, FRESH = "carried", "fresh"  # values of training.state
NONE = "none"  # value of corpus.normalize
TABLE_FORMATS = ("jsonl", "csv", "tsv")  # values of corpus.documents for tables with named fields


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
        default: the default value. If it is ``AUTO``, the field also accepts the word ``"auto"``, and ``auto_sizes``
            selects the number from the size of the text.
        about: help text of the command line option, with the unit of a number.
        low: minimum of a number; None if the field is not a number.
        high: maximum of a number; if None, ``recipe.LARGEST`` is the maximum.
        choices: valid strings; an empty tuple if every string is valid.

    Returns:
        A dataclass field with these values as metadata.
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
        "keys of JSONL objects, or names or numbers (from 1) of CSV/TSV columns; if there are several, the last one is "
        "the target, and the others are the source",
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
    validation: tuple[str, ...] = recipe_field(
        (), "validation texts; default: a part of the source is used for validation"
    )
    validation_fraction: float = recipe_field(0.1, "fraction of the source used for validation", low=0.0, high=0.9)
    language: str = recipe_field("", "language of the texts for the model card, as a code such as en or zh")
    license: str = recipe_field("", "license of the texts for the model card, such as mit")
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
        AUTO,
        "dropout rate before the first LSTM layer; auto: not larger than model.dropout",
        low=0.0,
        high=0.95,
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
        "weight of the mean squared LSTM output in the loss; the mean squared change of the output between time steps "
        "gets half of this weight; auto: 0, or 2 for small subword texts",
        low=0.0,
    )
    attention: int = recipe_field(
        0,
        "M, number of previous time steps of the last LSTM layer that the model attends to; 0: no attention",
        low=0,
        high=65_536,
    )
    copy: bool = recipe_field(
        False,
        "copy source tokens by attention (pointer-generator); needs model.attention, and pairs or training.state = "
        "'fresh'",
    )
    members: int = recipe_field(
        1, "K, number of models trained together whose probabilities are averaged (ensemble)", low=1, high=64
    )
    tied: bool = recipe_field(False, "share the weights of embedding and output layer; needs embedding_size = units")


@dataclass(frozen=True)
class Training:
    """The settings of the training. The training ends as soon as it reaches one of its limits."""

    init_from: str = recipe_field(
        "",
        "name or path of a run; the training starts from its weights, with its tokenizer and the sizes of its model",
    )
    batch_size: int = recipe_field(AUTO, "B, sequences in a batch", low=1, high=65_536)
    window: int = recipe_field(
        64,
        "T, number of time steps (tokens) of truncated backpropagation; if a pair has more tokens, the end of its "
        "source is cut off, or the first turns of a dialogue",
        low=1,
        high=65_536,
    )
    state: str = recipe_field(
        "auto",
        "initial LSTM state of each document; carried: the final state of the previous document; fresh: zero; auto: "
        "fresh if nearly all documents fit into a window",
        choices=(AUTO_WORD, CARRIED, FRESH),
    )
    random_offsets: bool = recipe_field(
        True,
        "if the state is carried, each epoch starts at a random position of the text; false: at the first token",
    )
    source_loss: float = recipe_field(
        0.0,
        "weight of the source tokens of a pair in the loss; target tokens have the weight 1",
        low=0.0,
        high=1.0,
    )
    epochs: int = recipe_field(
        AUTO,
        "maximum number of epochs; 0: no limit, which needs training.minutes; auto: 0 if training.minutes is given",
        low=0,
        high=1_000_000,
    )
    minutes: float = recipe_field(
        0.0,
        "maximum duration of the training in minutes; 0: no limit, and the learning rate decays over the epochs",
        low=0.0,
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
        "dtype of the operands of the LSTM's matrix products; auto: bfloat16 on processors that are faster with it, "
        "float32 on other processors and on GPUs",
        choices=("auto", "float32", "bfloat16"),
    )
    seed: int = recipe_field(0, "seed of the initial weights, dropout and random offsets", low=0, high=2**31 - 1)


@dataclass(frozen=True)
class Export:
    """The formats of the exported artifacts, and the number of texts for the comparison of each artifact with Keras."""

    formats: tuple[str, ...] = recipe_field(
        ("saved_model", "tflite", "onnx"),
        "formats of the exported artifacts",
        choices=("saved_model", "tflite", "tflite_float16", "tflite_int8", "onnx", "web"),
    )
    texts: int = recipe_field(
        100, "number of texts that Keras and each artifact generate for the comparison", low=1, high=1_000_000
    )
    tokens: int = recipe_field(200, "number of tokens in each text of the comparison", low=1, high=1_000_000)


@dataclass(frozen=True)
class Evaluate:
    """The metrics that ``evaluate`` reports in addition to the loss."""

    measures: tuple[str, ...] = recipe_field(
        (),
        "metrics in addition to the loss; with pairs: bleu, rouge, exact_match, recall, distinct_2; with labels: kind; "
        "with poems as documents: verses; with a stream: ngram (the loss of a character n-gram model as a baseline)",
        choices=("bleu", "rouge", "exact_match", "recall", "distinct_2", "kind", "verses", "ngram"),
    )
    beams: int = recipe_field(
        0,
        "number of beams of a beam search, which is evaluated in addition to greedy decoding; 0: no beam search",
        low=0,
        high=1_000,
    )
    length_penalty: float = recipe_field(
        0.0, "length penalty of the beam search; above 0, longer answers score higher", low=0.0, high=10.0
    )


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. Each field is a table of the TOML file with the same name."""

    corpus: Corpus = Corpus()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    training: Training = Training()
    export: Export = Export()
    evaluate: Evaluate = Evaluate()

    @property
    def carries(self) -> bool:
        """Whether each document starts with the final LSTM state of the previous document instead of zeros."""
        return not self.corpus.is_pairs and self.training.state != FRESH


SECTIONS: dict[str, type[Any]] = {
    "corpus": Corpus, "tokenizer": Tokenizer, "model": Model, "training": Training, "export": Export,
    "evaluate": Evaluate,
}  # fmt: skip


def recipe_fields() -> dict[str, tuple[Any, Any, Mapping[str, Any]]]:
    """Return all recipe fields: a dictionary that maps each dotted name to (type, default, metadata).

    >>> recipe_fields()["model.units"][:2]
    (<class 'int'>, -1)
    """
    hints = {section: get_type_hints(table) for section, table in SECTIONS.items()}
    return {
        f"{section}.{entry.name}": (hints[section][entry.name], entry.default, entry.metadata)
        for section, table in SECTIONS.items()
        for entry in fields(table)
    }
