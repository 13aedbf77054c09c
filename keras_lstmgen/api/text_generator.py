"""``TextGenerator``: train, load, use, evaluate, save and export an LSTM text generator from Python."""

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from keras_lstmgen.api import recipe_arguments, run_copies
from keras_lstmgen.config import recipe
from keras_lstmgen.system import lazy_import
from keras_lstmgen.utils.errors import UserError

if TYPE_CHECKING:
    import keras

    from keras_lstmgen.api.corpus_files import Texts
    from keras_lstmgen.api.generation_options import GenerateArguments as Options
    from keras_lstmgen.api.loaded_model import GeneratedText, LoadedModel
    from keras_lstmgen.exporters.export_run import Exported
    from keras_lstmgen.tokenizers.tokenizer import Tokenizer


Prompts = list[str] | tuple[str, ...]


class TextGenerator:
    """An LSTM text generator that is trained on your text.

    Several threads can use a generator at the same time. Nothing is printed unless ``verbose=1``.

    Args:
        **fields: recipe fields by their short names, such as ``units=512`` or ``tokenizer="char"``, or by their full
            names in a dictionary: ``**{"training.learning_rate": 0.002}``. ``keras-lstmgen train --help`` describes all
            fields. Fields that are not given have the defaults of the command line.

    Raises:
        UserError: if a field is unknown, or if a value is invalid. ``UserError`` is a ``ValueError``.

    >>> from keras_lstmgen import TextGenerator
    >>> TextGenerator(units=512, tokenizer="bpe").fields
    {'model.units': 512, 'tokenizer.type': 'bpe'}
    >>> TextGenerator(unit=512)
    Traceback (most recent call last):
    keras_lstmgen.utils.errors.UserError: unknown recipe field 'unit'; the nearest is 'units'
    """

    def __init__(self, **fields: Any) -> None:
        """Create a generator that is not trained, and check the recipe fields."""
        self.fields = recipe_arguments.dotted_values(fields)
        recipe.override(recipe.Recipe(), self.fields)
        self._lock = threading.RLock()
        self._folder: Path | None = None
        self._model: LoadedModel | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TextGenerator":
        """Load a run that ``keras-lstmgen train`` or ``save`` has written.

        Args:
            path: the folder of the run, such as ``"saved_models/my_book"``.

        Returns:
            The generator with loaded weights. The model is compiled when the first text is generated.

        Raises:
            UserError: if the folder is not a run, or if a file of the run is missing or damaged.
        """
        generator = cls()
        generator._use(run_copies.run_folder(path))
        return generator

    @overload
    def generate(self, prompt: str = "", *, n: None = None, **options: "Unpack[Options]") -> "GeneratedText": ...

    @overload
    def generate(self, prompt: str = "", *, n: int, **options: "Unpack[Options]") -> "list[GeneratedText]": ...

    @overload
    def generate(self, prompt: Prompts, *, n: None = None, **options: "Unpack[Options]") -> "list[GeneratedText]": ...

    @overload
    def generate(self, prompt: Prompts, *, n: int, **options: "Unpack[Options]") -> "list[list[GeneratedText]]": ...

    def generate(self, prompt: Any = "", *, n: int | None = None, **options: "Unpack[Options]") -> Any:
        """Generate a text for a prompt, or one text for each prompt of a list.

        With equal options, the text equals the output of ``keras-lstmgen generate``. ``docs/generation.md`` describes
        the options.

        Args:
            prompt: the text to continue, or a list of texts. "" for the start symbol.
            n: number of texts for each prompt. Text k uses ``seed + k``. None for one text instead of a list.
            **options: options of ``keras-lstmgen generate``:

                - ``seed`` (default 0): 64-bit seed. All prompts of a list use the same seed.
                - ``max_new_tokens`` (300): maximum number of tokens per text.
                - ``stop``: string or list of strings that end a text.
                - ``temperature`` (1.0), ``top_k`` (0), ``top_p`` (1.0), ``min_p`` (0.0), ``repetition_penalty`` (1.0):
                  sampling options.
                - ``min_new_tokens`` (0), ``no_repeat_ngram`` (0), ``presence_penalty`` (0.0), ``frequency_penalty``
                  (0.0), ``logit_bias``, ``regex``: constraints and penalties.
                - ``beams`` (0), ``length_penalty`` (0.0): beam search.
                - ``logprobs``: number of most probable tokens to report for each token.

        Returns:
            A string for one prompt, or a list of strings for a list of prompts. With ``n``, a list of n strings for
            each prompt. The strings do not contain the prompt. Each string has the attributes ``sample`` and
            ``token_logprobs`` (``GeneratedText``).

        Raises:
            UserError: if an option is unknown, out of range, or has no effect, or if the generator is not trained.
        """
        model = self._trained()
        prompts = _checked_prompts(prompt)
        plan = _engine().plan(model, {**options, **({} if n is None else {"n": n})})
        groups = model.texts(prompts, plan)
        texts: list[Any] = [group[0] for group in groups] if n is None else list(groups)
        return texts[0] if isinstance(prompt, str) else texts

    def stream(self, prompt: str = "", **options: "Unpack[Options]") -> Iterator[str]:
        """Generate a text, and yield it in parts while it is generated.

        You can stop the iteration at any time. The parts form the text that ``generate`` returns for the same options.

        Args:
            prompt: the text to continue.
            **options: see ``generate``; not ``logprobs``.

        Returns:
            An iterator of strings that are not empty.

        Raises:
            UserError: as in ``generate``. The error is raised by this call, not by the first iteration.
        """
        model = self._trained()
        if not isinstance(prompt, str):
            raise UserError(f"prompt: {type(prompt).__name__} is not a string; stream continues a single prompt")
        for name in ("n", "logprobs"):
            if name in options:
                raise UserError(f"{name}: has no effect in stream, which yields a single text; use generate")
        plan = _engine().plan(model, options)
        stream: Iterator[str] = model.stream(prompt, plan)
        return stream

    def fit(
        self,
        texts: "Texts",
        *,
        validation_split: float | None = None,
        epochs: int | None = None,
        callbacks: "Sequence[keras.callbacks.Callback]" = (),
        verbose: int = 0,
    ) -> "keras.callbacks.History":
        """Train the generator, or continue the training of a trained generator on a new text.

        A continued training keeps the vocabulary, the model and the learning rate, and uses a longer warm-up, as
        ``keras-lstmgen train --init-from`` does (``docs/training.md``).

        The training runs in a temporary folder, which is deleted together with the generator. ``save`` copies the run
        to a permanent folder. ``fit`` sets the seeds of Python, NumPy and Keras, like ``keras-lstmgen train``.

        Args:
            texts: the training text. A string is one text in the format of the field ``documents``, by default
                continuous text. Each string of a list or of another iterable is a document, and may contain newlines.
                A ``pathlib.Path`` is a file, a folder or a glob.
            validation_split: fraction of the text for validation. None for the recipe field ``validation_fraction``.
            epochs: maximum number of epochs. None for the recipe field ``epochs``.
            callbacks: Keras callbacks (``docs/training.md``).
            verbose: 0 for no output, 1 for messages and a progress bar.

        Returns:
            The history. ``history.history`` contains the lists ``loss``, ``val_loss`` (both in nats per token) and
            ``seconds``, with one entry per epoch.

        Raises:
            UserError: if the text is not suitable for the recipe, if an argument is invalid, or if the training
                diverges.
        """
        given = {"corpus.validation_fraction": validation_split, "training.epochs": epochs}
        values = {**self.fields, **{name: value for name, value in given.items() if value is not None}}
        engine = _engine()
        with self._lock:
            start = None if self._model is None else self._run_folder()
            request = engine.FitRequest(texts, values, callbacks, verbose, start)
            temporary = Path(tempfile.mkdtemp(prefix="keras_lstmgen-"))
            remove = weakref.finalize(self, _remove_in_process, temporary, os.getpid())
            try:
                history: keras.callbacks.History = engine.fit(request, temporary)
            finally:  # after an interruption, the generator has the best weights so far
                if engine.is_trained(temporary / engine.NAME):
                    self._use(temporary / engine.NAME)
                else:
                    remove()
        return history

    def evaluate(
        self,
        texts: "Texts | None" = None,
        *,
        samples: int = 0,
        sample_tokens: int = 500,
        verbose: int = 0,
        **fields: Any,
    ) -> dict[str, Any]:
        """Measure the loss on text, and optionally further metrics.

        Args:
            texts: the text, as in ``fit``. None for the held-out text of the run, which must still exist.
            samples: number of texts to generate and to compare with the training text, which must still exist.
            sample_tokens: maximum number of tokens of each sample and each answer.
            verbose: 0 for no output, 1 for messages.
            **fields: recipe fields of the table ``evaluate``: ``measures``, ``beams``, ``length_penalty``.

        Returns:
            The report of ``keras-lstmgen evaluate --json``. ``report["loss"]`` contains ``nats_per_token``,
            ``perplexity`` and other units, and ``report["counts"]`` the number of tokens and characters.

        Raises:
            UserError: if a text is empty or cannot be read, or if an argument is invalid.
        """
        model = self._trained()
        engine = _engine()
        values = recipe_arguments.of_table("evaluate", fields)
        report: dict[str, Any] = engine.evaluate(
            model, engine.EvaluateRequest(texts, samples, sample_tokens, values, verbose)
        )
        return report

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the run to a folder, which ``load`` and the command line can read.

        Args:
            folder: the folder to create.
            overwrite: whether to replace an earlier run in this folder. Other files are never replaced.

        Returns:
            The folder.

        Raises:
            UserError: if the folder exists, or cannot be written.
        """
        self._trained()
        path = run_copies.checked_path("folder", folder)
        with self._lock:
            run_copies.copy(self._run_folder(), path, overwrite)
            self._folder = path
        return Path(folder)

    def export(
        self, folder: str | os.PathLike[str], *, overwrite: bool = False, verbose: int = 0, **fields: Any
    ) -> "dict[str, Exported]":
        """Write artifacts for other runtimes, and verify that each generates the same texts as Keras.

        Args:
            folder: the folder for the artifacts. It also receives the files of the run, so it can be loaded.
            overwrite: whether to replace an earlier run in this folder. It is not needed if the folder contains an
                earlier export of the same run.
            verbose: 0 for no output, 1 for messages.
            **fields: recipe fields of the table ``export``: ``formats``, ``texts``, ``tokens``.

        Returns:
            The result of each format: ``path`` of the artifact, ``size`` in bytes, and ``proof`` of the comparison with
            Keras.

        Raises:
            UserError: if an artifact failed the comparison, or if an argument is invalid.
        """
        path, engine = run_copies.checked_path("folder", folder), _engine()
        settings = engine.export_settings(self._trained(), recipe_arguments.of_table("export", fields), verbose)
        with self._lock:
            run_copies.copy_for_export(self._run_folder(), path, overwrite)
            results: dict[str, Exported] = engine.export(path, settings, verbose)
        return results

    def inspect(
        self,
        prompt: str,
        folder: str | os.PathLike[str],
        *,
        texts: "Texts | None" = None,
        layer: int | None = None,
        cell: int | None = None,
    ) -> list[Path]:
        """Draw the gates and cells of an LSTM layer over a text (``docs/lstm.md``).

        Args:
            prompt: the text that the model reads.
            folder: the folder for the pictures and the HTML page ``text.html``.
            texts: the text in which to search for cells that follow a readable feature, in the same forms as in
                ``evaluate``. None for the held-out text of the run, which must still exist.
            layer: number of the layer, from 1. None for the last layer.
            cell: number of the cell whose values colour the text, from 0. None for the cell with the best score.

        Returns:
            The paths of the files.

        Raises:
            UserError: if an argument is invalid, or if a text cannot be read.
        """
        path, engine = run_copies.checked_path("folder", folder), _engine()
        request = engine.InspectRequest(prompt, texts, layer, cell)
        files: list[Path] = engine.inspect(self._trained(), request, path)
        return files

    @property
    def tokenizer(self) -> "Tokenizer":
        """The tokenizer of the trained generator."""
        return self._trained().run.tokenizer

    @property
    def model(self) -> "keras.Sequential":
        """The Keras model of the trained generator, for inference."""
        return self._trained().run.model

    def _trained(self) -> "LoadedModel":
        """Return the loaded model; raise UserError if the generator is not trained."""
        if self._model is None:
            raise UserError("the generator is not trained; call fit, or load a run with TextGenerator.load")
        return self._model

    def _run_folder(self) -> Path:
        """Return the folder of the run; raise UserError if the folder no longer exists."""
        return run_copies.run_folder(self._folder or Path())

    def _use(self, folder: Path) -> None:
        """Load the model of a run."""
        self._folder, self._model = folder, _engine().load(folder)


def _engine() -> Any:
    """Import the part of this package that needs TensorFlow."""
    return lazy_import.import_module("keras_lstmgen.api.engine")


def _remove_in_process(folder: Path, process: int) -> None:
    """Remove a temporary folder, but not in a process that was forked from the process that uses the folder."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _checked_prompts(prompt: Any) -> Sequence[str]:
    """Return the prompts as a sequence; raise UserError if the argument is neither a string nor a list of strings."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if isinstance(prompts, list | tuple) and all(isinstance(text, str) for text in prompts):
        return prompts
    raise UserError(f"prompt: {prompt!r:.60} is not a string or a list of strings")
