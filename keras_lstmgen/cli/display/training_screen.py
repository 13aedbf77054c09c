"""Show the progress of a training: a progress bar, and after each epoch a line with the loss and a sample text."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
from rich.markup import escape

from keras_lstmgen.cli import console
from keras_lstmgen.data.splits import Split

SPEED_BATCHES = 50  # number of recent batches from which the speed on the progress bar is computed


def loss_figures(cross_entropy: float, tokens_per_character: float) -> list[str]:
    """Format a loss in three units: nats per token, bits per character, and perplexity.

    >>> from keras_lstmgen.cli.display.training_screen import loss_figures
    >>> loss_figures(1.5, tokens_per_character=1.0)
    ['1.500 nats/token', '2.16 bits/character', 'perplexity 4.48']

    Args:
        cross_entropy: the loss in nats per token.
        tokens_per_character: number of tokens in the measured text divided by its number of characters.

    Returns:
        The strings, one for each unit, in the order of the progress bar.
    """
    bits = cross_entropy * tokens_per_character / math.log(2)
    perplexity = math.exp(min(cross_entropy, 700))
    return [f"{cross_entropy:.3f} nats/token", f"{bits:.2f} bits/character", f"perplexity {perplexity:.2f}"]


class TrainingScreen(keras.callbacks.Callback):
    """A Keras callback that updates a progress bar, and prints a line and a sample text after each epoch."""

    def __init__(
        self,
        completed: Callable[[], float],
        batch_tokens: float,
        tokens_per_character: Mapping[Split, float],
        sample: Callable[[], str],
    ) -> None:
        """Create a progress bar, and store the functions and numbers for the display.

        Args:
            completed: function that returns the completed share of the training, from 0 to 1.
            batch_tokens: number of tokens in a batch.
            tokens_per_character: number of tokens divided by number of characters, for each split.
            sample: function that generates a text.
        """
        super().__init__()
        self.completed, self.batch_tokens, self.sample = completed, batch_tokens, sample
        self.tokens_per_character = tokens_per_character
        self.bar = console.progress_bar()
        self.task = self.bar.add_task("training", total=1.0, figures=())
        self._recent: list[float] = []  # end times of recent batches in seconds

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Start the time measurement of an epoch. The measured time excludes validation and saving."""
        self.bar.update(self.task, description=f"epoch {epoch + 1}")
        self._recent, self._batches, self._began = [time.monotonic()], 0, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        """Update the progress bar and its figures."""
        self._batches = batch + 1
        self._recent = [*self._recent[-SPEED_BATCHES:], time.monotonic()]
        speed = self.batch_tokens * (len(self._recent) - 1) / max(self._recent[-1] - self._recent[0], 1e-9)
        loss, *other_units = loss_figures(logs["loss"], self.tokens_per_character["train"])
        self.bar.update(self.task, completed=self.completed(), figures=(loss, f"{speed:,.0f} tokens/s", *other_units))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Print a line with the speed and the losses of the epoch, and a sample text."""
        speed = self.batch_tokens * self._batches / max(self._recent[-1] - self._began, 1e-9)
        validation = "  ".join(loss_figures(logs["val_loss"], self.tokens_per_character["validation"]))
        console.out.print(
            f"[bold]epoch {epoch + 1}[/bold]  {speed:,.0f} tokens/s  train {logs['loss']:.3f}  validation {validation}"
        )
        console.out.print(f"[dim]{escape(self.sample().strip())}[/dim]\n")
