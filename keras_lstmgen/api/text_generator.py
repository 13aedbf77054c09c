"""``TextGenerator``: train, load, use, evaluate, save and export an LSTM text generator from Python."""

import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from keras_lstmgen.system import lazy_import
from keras_lstmgen.utils.errors import UserError


class TextGenerator:
    """An LSTM text generator."""

    def __init__(self) -> None:
        """Create a text generator that is not trained."""
        self._lock = threading.RLock()
        self._model: Any = None

    @classmethod
    def load(cls, path: str | Path) -> "TextGenerator":
        """Load a run that ``train`` or ``save`` has written.

        Args:
            path: the folder of the run.

        Raises:
            UserError: if the folder is not a run, or if a file in it is missing or damaged.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise UserError(
                f"{folder}: is not the folder of a run; give the path of a run, such as saved_models/my_run"
            )
        generator = cls()
        generator._model = _engine().load(folder)
        return generator

    def generate(self, prompt: str = "", **options: Any) -> str:
        """Generate a text."""
        return str(_engine().generate(self._model, prompt, options))


def _engine() -> ModuleType:
    """Import the part of this package that needs TensorFlow."""
    return lazy_import.import_module("keras_lstmgen.api.engine")
