"""Keras layers: LSTM with a native kernel, output layers, attention, pointer-generator, ensemble, regularization.

The package ``models`` builds models with these layers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_lstmgen.layers.lstm import LSTM as LSTM

_MODULES = {"LSTM": "lstm"}  # the public layers; each is imported with TensorFlow on first use
__all__ = ["LSTM"]


def __getattr__(name: str) -> Any:
    """Import a public layer when it is first used."""
    from keras_lstmgen.system.lazy_import import attribute

    return attribute(__name__, _MODULES, name)
