"""Read the vocabulary of a user's own Keras model: a tokenizer, a list of strings, or a text layer of Keras."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_lstmgen.reporting import reporter
from keras_lstmgen.tokenizers import listed_vocabulary
from keras_lstmgen.tokenizers.listed_vocabulary import Listed
from keras_lstmgen.tokenizers.tokenizer import Tokenizer
from keras_lstmgen.utils.errors import UserError

KINDS = "give a keras_lstmgen.Tokenizer, a list of strings, or a StringLookup or TextVectorization layer"
STANDARDIZE = {
    "lower": "convert them to lower case",
    "strip_punctuation": "remove punctuation",
    "lower_and_strip_punctuation": "convert them to lower case and remove punctuation",
}
# Supported values of the arguments of the text layers. The first value is the one to recommend.
ARGUMENTS: dict[type, dict[str, tuple[Any, ...]]] = {
    keras.layers.StringLookup: {"output_mode": ("int",), "num_oov_indices": (1, 0)},
    keras.layers.TextVectorization: {
        "output_mode": ("int",), "split": ("character", "whitespace"), "ngrams": (None,),
        "standardize": (None, *STANDARDIZE),
    },
}  # fmt: skip


def read(vocabulary: Any) -> Listed:
    """Return the tokenizer of a user's vocabulary. The ids of the tokenizer are those of the user's model.

    Args:
        vocabulary: a tokenizer, a list of strings, or a layer of Keras that converts strings to ids.

    Raises:
        UserError: if the vocabulary has another type, is empty, has duplicates, or is a layer with unsupported
            arguments.
    """
    if isinstance(vocabulary, Tokenizer):
        return _of_tokenizer(vocabulary)
    if isinstance(vocabulary, keras.layers.StringLookup | keras.layers.TextVectorization):
        return _of_layer(vocabulary)
    return listed_vocabulary.build(_strings(vocabulary))


def _of_tokenizer(tokenizer: Tokenizer) -> Listed:
    """Return a tokenizer of this package with the ids of its symbols."""
    if tokenizer.is_listed:
        raise UserError(
            "vocabulary: is the tokenizer of an exported model; give the list of strings or the layer again"
        )
    unsampled = (tokenizer.unk_id, tokenizer.start_id)
    return Listed(tokenizer, tuple(range(tokenizer.vocab_size)), tokenizer.newline_id, unsampled)


def _of_layer(layer: Any) -> Listed:
    """Return the tokenizer of a StringLookup or TextVectorization layer."""
    config = layer.get_config()
    (arguments,) = (arguments for kind, arguments in ARGUMENTS.items() if isinstance(layer, kind))
    for name, supported in arguments.items():
        if (given := config.get(name)) not in supported:
            shown = repr(given) if isinstance(given, str | int | tuple) else type(given).__name__
            raise UserError(
                f"vocabulary: layer '{layer.name}' has {name}={shown}, which is not supported; use "
                f"{name}={' or '.join(map(repr, supported))}"
            )
    if given := STANDARDIZE.get(config.get("standardize")):
        reporter.message(f"{layer.name}: an exported model does not change prompts; {given} before you pass them")
    strings, oov = _strings(layer.get_vocabulary()), config.get("oov_token", "[UNK]")
    masked = [listed_vocabulary.PADDING if string == config.get("mask_token") else string for string in strings]
    listed = listed_vocabulary.build(masked, (oov,))
    _check_split(layer, config, listed)
    return listed


def _check_split(layer: Any, config: Mapping[str, Any], listed: Listed) -> None:
    """Raise UserError if a layer splits words but its vocabulary looks like single characters, or the reverse."""
    split = config.get("split")
    if split and listed.tokenizer.by_word != (split == "whitespace"):
        raise UserError(
            f"vocabulary: layer '{layer.name}' has split={split!r}, but its strings are "
            f"{'words' if listed.tokenizer.by_word else 'single characters'}; adapt it to the text, or change split"
        )


def _strings(vocabulary: Any) -> list[str]:
    """Return a vocabulary as a list of strings."""
    if isinstance(vocabulary, Mapping):
        raise UserError(
            "vocabulary: is a dictionary; give a list of strings in the order of their ids, such as "
            "sorted(ids, key=ids.get)"
        )
    if not isinstance(vocabulary, list | tuple | np.ndarray):
        raise UserError(f"vocabulary: is a {type(vocabulary).__name__}; {KINDS}")
    for token, string in enumerate(vocabulary):
        if not isinstance(string, str):
            raise UserError(f"vocabulary: entry {token} is {string!r:.60}, not a string; {KINDS}")
    return [str(string) for string in vocabulary]
