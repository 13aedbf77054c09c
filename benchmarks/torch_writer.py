"""Generate text in PyTorch with the same weights: ``LSTMCell`` and ``nn.LSTM``, in float32 and dynamic int8.

As fast as it gets: no gradients, one tensor operation draws all rows, and each side has the threads that suit it best.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import texts
from benchmarks.artifact_sides import metadata

State = tuple[torch.Tensor, ...]


class Cells(torch.nn.Module):
    """One step by ``LSTMCell``: ids int64 [B], h and c [B, H] of each layer in turn; gives logits [B, V], h and c."""

    def __init__(self, stored: dict[str, Any]) -> None:
        """Take the weights."""
        super().__init__()
        self.embedding, self.output = _ends(stored)
        kernels = [stored[f"kernel_{layer}"] for layer in range(texts.layers(list(stored)))]
        self.cells = torch.nn.ModuleList(torch.nn.LSTMCell(k.shape[0], k.shape[1] // 4) for k in kernels)
        for layer, cell in enumerate(self.cells):
            _fill(cell, "", stored, layer)

    def forward(self, ids: torch.Tensor, *state: torch.Tensor) -> State:
        """Read one token a row."""
        x, carried = self.embedding(ids), []
        for cell, h, c in zip(self.cells, state[::2], state[1::2], strict=True):
            x, c = cell(x, (h, c))
            carried += [x, c]
        return (self.output(x), *carried)

    def nothing(self, B: int) -> State:
        """The states at the beginning of a text."""
        return tuple(torch.zeros(B, self.output.in_features) for _ in range(2 * len(self.cells)))


class Layers(torch.nn.Module):
    """The same by ``nn.LSTM`` over one time step, with its h and c [L, B, H]."""

    def __init__(self, stored: dict[str, Any]) -> None:
        """Take the weights."""
        super().__init__()
        self.embedding, self.output = _ends(stored)
        self.L = texts.layers(list(stored))
        self.lstm = torch.nn.LSTM(self.embedding.embedding_dim, self.output.in_features, self.L)
        for layer in range(self.L):
            _fill(self.lstm, f"_l{layer}", stored, layer)

    def forward(self, ids: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> State:
        """Read one token a row."""
        x, (h, c) = self.lstm(self.embedding(ids).unsqueeze(0), (h, c))
        return self.output(x[0]), h, c

    def nothing(self, B: int) -> State:
        """The states at the beginning of a text."""
        return tuple(torch.zeros(self.L, B, self.output.in_features) for _ in range(2))


def _ends(stored: dict[str, Any]) -> tuple[torch.nn.Embedding, torch.nn.Linear]:
    """Embedding and output."""
    output = torch.nn.Linear(*stored["output"].shape)
    with torch.no_grad():
        output.weight.copy_(torch.from_numpy(stored["output"].T))
        output.bias.copy_(torch.from_numpy(stored["output_bias"]))
    return torch.nn.Embedding.from_pretrained(torch.from_numpy(stored["embedding"])), output


def _fill(module: torch.nn.Module, suffix: str, stored: dict[str, Any], layer: int) -> None:
    """Set the weights of a layer: PyTorch's gates have Keras's order, its matrices are transposed, its biases two."""
    with torch.no_grad():
        for name, kind in (("weight_ih", "kernel"), ("weight_hh", "recurrent"), ("bias_ih", "bias")):
            getattr(module, name + suffix).copy_(torch.from_numpy(stored[f"{kind}_{layer}"].T))
        getattr(module, "bias_hh" + suffix).zero_()


def written(folder: str, kind: str, B: int, int8: bool = False, form: str = "") -> Callable[[float], float]:
    """A side: ``kind`` is "cells" or "layers", ``form`` "", "scripted" (traced and frozen), "compiled" or "looped".

    Looped, the whole text is one call of TorchScript.
    """
    torch.set_grad_enabled(False)
    about, looped = metadata(folder), form == "looped"
    step, nothing = stepper(texts.weights(folder), kind, B, int8, "" if looped else form)
    never = torch.zeros(about.vocab_size)
    never[list(about.unsampled_ids)] = -torch.inf
    start = torch.full((B,), about.start_id)

    def write(length: int) -> torch.Tensor:
        ids, state = start, nothing
        out = torch.empty(length, B, dtype=torch.long)
        for t in range(length):
            logits, *state = step(ids, *state)
            ids = drawn(logits, never)
            out[t] = ids
        return out

    written = loop(step, nothing, never, start) if looped else write
    return texts.writes({threads: _with_threads(threads, written) for threads in texts.cores()}, B)


def drawn(logits: torch.Tensor, never: torch.Tensor) -> torch.Tensor:
    """An id a row by its probability.

    The smallest of exponential numbers over the shares is drawn as by them: faster than torch.multinomial.
    """
    shares = torch.softmax(logits + never, dim=1)
    return (shares / torch.empty_like(shares).exponential_()).argmax(dim=1)


class Loop(torch.nn.Module):
    """Whole texts without a line of Python a character: for ``torch.jit.script``."""

    def __init__(self, step: torch.nn.Module, never: torch.Tensor) -> None:
        """Take one step, traced, and what to add to logits."""
        super().__init__()
        self.step, self.never = step, never

    def forward(self, ids: torch.Tensor, state: list[torch.Tensor], length: int) -> torch.Tensor:
        """Ids int64 [B] to begin with, the states at the beginning; gives ids [length, B]."""
        out = torch.empty([length, ids.size(0)], dtype=torch.long)
        for t in range(length):
            logits, state = self.step(ids, state)
            ids = drawn(logits, self.never)
            out[t] = ids
        return out


class Listed(torch.nn.Module):
    """A step whose states are one list, as a loop in TorchScript hands them on, however many there are."""

    def __init__(self, step: torch.nn.Module) -> None:
        """Take the step."""
        super().__init__()
        self.step = step

    def forward(self, ids: torch.Tensor, state: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Read one token a row."""
        logits, *after = self.step(ids, *state)
        return logits, after


def loop(step: torch.nn.Module, nothing: State, never: torch.Tensor, start: torch.Tensor) -> texts.Write:
    """What writes a text by one call of TorchScript."""
    with warnings.catch_warnings(action="ignore"):  # scripting is old
        listed = torch.jit.trace(Listed(step), (start, list(nothing)), strict=False)
        scripted = torch.jit.optimize_for_inference(torch.jit.script(Loop(listed, never).eval()))
    return lambda length: scripted(start, list(nothing), length)


def stepper(stored: dict[str, Any], kind: str, B: int, int8: bool, form: str) -> tuple[Callable[..., Any], State]:
    """One step, and the states at the beginning."""
    module = (Cells if kind == "cells" else Layers)(stored).eval()
    nothing = module.nothing(B)
    step: Any = _quantized(module) if int8 else module
    if form == "compiled":
        return torch.compile(step), nothing
    if form == "scripted":
        with warnings.catch_warnings(action="ignore"):  # tracing checks itself, and is old
            traced = torch.jit.trace(step, (torch.zeros(B, dtype=torch.long), *nothing))
            step = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    return step, nothing


def _quantized(module: torch.nn.Module) -> torch.nn.Module:
    """Dynamic int8, as PyTorch has it for recurrent layers."""
    kinds = {torch.nn.LSTM, torch.nn.LSTMCell, torch.nn.Linear}
    with warnings.catch_warnings(action="ignore"):  # it is to move to a package that has no LSTM yet
        return torch.ao.quantization.quantize_dynamic(module, kinds, dtype=torch.qint8)


def _with_threads(threads: int, write: texts.Write) -> texts.Write:
    def call(length: int) -> torch.Tensor:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return write(length)

    return call


def weights_alone(B: int, megabytes: float) -> Callable[[float], float]:
    """Characters a second, if one took no more than what has to be done with so many megabytes of weights.

    One text at a time does two operations a weight, so that memory is what it waits for: they are read once. With more
    it is the product: one, in float32, by PyTorch.
    """
    torch.set_grad_enabled(False)
    matrix = torch.randn(2048, round(megabytes * 1e6 / 4 / 2048))
    x = torch.randn(matrix.shape[1], B)

    def write(length: int) -> None:
        for _ in range(length):
            _ = matrix.sum() if B == 1 else matrix @ x

    return texts.writes({threads: _with_threads(threads, write) for threads in texts.cores()}, B)
