"""Measure training in PyTorch: the same model with ``nn.LSTM``."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from benchmarks.shapes import CLIP_NORM, DROPOUT, LEARNING_RATE, Shape, windows

State = tuple[torch.Tensor, torch.Tensor]  # h and c, [1, B, H] each


class Network(torch.nn.Module):
    """Embedding, layers of LSTM, output: ids int64 [T, B] in, logits [T, B, V] out, and the states of the layers.

    Time-major, as its LSTM computes. A layer has an ``nn.LSTM`` of its own, because the mask between two layers is the
    same for all steps; one of several layers would draw a mask for each.
    """

    def __init__(self, shape: Shape) -> None:
        """Draw the weights."""
        super().__init__()
        self.embedding = torch.nn.Embedding(shape.V, shape.H)
        self.lstms = torch.nn.ModuleList(torch.nn.LSTM(shape.H, shape.H) for _ in range(shape.L))
        self.output = torch.nn.Linear(shape.H, shape.V)

    def forward(self, ids: torch.Tensor, states: list[State]) -> tuple[torch.Tensor, list[State]]:
        """Read a window from ``states``."""
        x = self.embedding(ids)
        carried = []
        for lstm, state in zip(self.lstms, states, strict=True):
            x, state = lstm(self.dropped(x), state)
            carried.append(state)
        return self.output(self.dropped(x)), carried

    def dropped(self, x: torch.Tensor) -> torch.Tensor:
        """[T, B, width] in training with one mask for all steps."""
        return x * functional.dropout(torch.ones_like(x[:1]), DROPOUT) if self.training else x


def zeros(shape: Shape, device: str = "cpu") -> list[State]:
    """The states at the beginning of a text."""
    nothing = torch.zeros(1, shape.B, shape.H, device=device)
    return [(nothing, nothing) for _ in range(shape.L)]


def train(
    shape: list[int], precision: str, compiled: bool = False, device: str = "cpu", kept: bool = False
) -> Callable[[int], float]:
    """A side: trains so many steps and gives tokens per second; bfloat16 is autocast's.

    With ``kept`` memory it gets from this tool what our side has of it: pages that the C library does not give back.
    """
    if kept:
        from keras_lstmgen.system import malloc

        malloc.configure()
    s = Shape(*shape)
    torch.backends.cudnn.allow_tf32 = False  # which products are without from the start
    network = Network(s).to(device)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=True)
    forward = torch.compile(network) if compiled else network
    ids = torch.from_numpy(windows(s)).long().transpose(1, 2).to(device)  # [64, T + 1, B]
    states = zeros(s, device)

    def step(window: Any) -> torch.Tensor:
        nonlocal states
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits, states = forward(window[:-1], states)
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), window[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()
        states = [(h.detach(), c.detach()) for h, c in states]
        return loss

    def side(steps: int) -> float:
        began = time.perf_counter()
        for number in range(steps):
            loss = step(ids[number % len(ids)])
        loss.item()  # waits for a GPU
        return steps * s.B * s.T / (time.perf_counter() - began)

    side(3)  # compiles
    return side
