"""Define the models that all sides of a benchmark train, and compute their number of operations."""

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CHARACTERS, WORDS = 65, 33_000  # V of tiny Shakespeare, and about that of WikiText-2
DROPOUT = 0.1  # the recipe's own default: one mask for all steps of a window, before each layer and the output
LEARNING_RATE = 1e-3
CLIP_NORM = 1.0
WINDOWS = 64  # of random ids, over and over


class Shape(NamedTuple):
    """An LSTM language model with E = H, its output not tied, and the batch that it is trained on."""

    L: int
    H: int
    B: int
    T: int
    V: int = CHARACTERS

    def __str__(self) -> str:
        """``1x512,32,64``, and ``,33000`` where the vocabulary is another."""
        return f"{self.L}x{self.H},{self.B},{self.T}" + (f",{self.V}" if self.V != CHARACTERS else "")


SHAPES = (Shape(1, 512, 32, 64), Shape(2, 512, 64, 128), Shape(2, 1024, 64, 128), Shape(1, 512, 32, 64, WORDS))


def parse(text: str) -> Shape:
    """Read ``LxH,B,T`` or ``LxH,B,T,V``. ValueError for anything else."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(,[1-9]\d*){2,3}", text):
        raise ValueError(f"'{text}' is not LxH,B,T or LxH,B,T,V")
    return Shape(*map(int, re.split("[x,]", text)))


def flop_per_token(shape: Shape) -> int:
    """Floating point operations of a training step per token: 6 for each weight that takes part in a product.

    2 (a multiplication and an addition) forward, 2 for the gradient of the inputs, 2 for that of the weight. Of a layer
    that is W [H, 4H] and U [H, 4H], of the output [H, V]. The embedding is looked up. Nothing else is counted.
    """
    return 6 * (shape.L * (2 * shape.H * 4 * shape.H) + shape.H * shape.V)


def windows(shape: Shape) -> NDArray[np.int32]:
    """Random ids, each as likely as any other: int32 [64, B, T + 1]."""
    return np.random.default_rng(0).integers(shape.V, size=(WINDOWS, shape.B, shape.T + 1), dtype=np.int32)
