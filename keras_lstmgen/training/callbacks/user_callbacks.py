"""Run the Keras callbacks that a caller of ``trainer.train`` adds to a training."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_lstmgen.distribution.stop_votes import StopRequest


class UserCallbacks(keras.callbacks.Callback):
    """Call the callbacks of the user in their order, after the callbacks of this package.

    If a callback sets ``model.stop_training`` after a batch, the training ends as after Ctrl-C: with a validation and a
    checkpoint. If a callback raises an exception, the exception ends the training. ``loop`` saves a checkpoint first if
    the exception was raised before or after a batch.

    Args:
        callbacks: the callbacks of the user.

    Attributes:
        failed: whether a callback has raised an exception.
        failed_at_batch: whether a callback has raised an exception before or after a batch.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Create the callback."""
        super().__init__()
        self.callbacks = list(callbacks)
        self.failed = self.failed_at_batch = False
        self._stop = StopRequest()

    def stop_by(self, stop: StopRequest) -> None:
        """Set the stop request of this worker. A callback that sets ``model.stop_training`` makes this request."""
        self._stop = stop

    def set_params(self, params: Any) -> None:
        """Pass the parameters of ``model.fit`` to all callbacks."""
        super().set_params(params)
        self._call_all(lambda callback: callback.set_params(params))

    def set_model(self, model: Any) -> None:
        """Pass the model to all callbacks."""
        super().set_model(model)
        self._call_all(lambda callback: callback.set_model(model))

    def on_train_begin(self, logs: Any = None) -> None:
        """Call ``on_train_begin`` of all callbacks."""
        self._call_all(lambda callback: callback.on_train_begin(logs))

    def on_train_end(self, logs: Any = None) -> None:
        """Call ``on_train_end`` of all callbacks."""
        self._call_all(lambda callback: callback.on_train_end(logs))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Call ``on_epoch_begin`` of all callbacks."""
        self._call_all(lambda callback: callback.on_epoch_begin(epoch, logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Call ``on_epoch_end`` of all callbacks."""
        self._call_all(lambda callback: callback.on_epoch_end(epoch, logs))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Call ``on_train_batch_begin`` of all callbacks."""
        self._call_all(lambda callback: callback.on_train_batch_begin(batch, logs), at_batch=True)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Call ``on_train_batch_end`` of all callbacks, and convert ``model.stop_training`` to a stop request."""
        was_over = self.model.stop_training
        self._call_all(lambda callback: callback.on_train_batch_end(batch, logs), at_batch=True)
        if self.model.stop_training and not was_over:
            self._stop.interrupt()

    def _call_all(self, call: Callable[[keras.callbacks.Callback], None], *, at_batch: bool = False) -> None:
        """Call a function with each callback, and record whether a callback raises an exception."""
        try:
            for callback in self.callbacks:
                call(callback)
        except Exception:
            self.failed, self.failed_at_batch = True, at_batch
            raise
