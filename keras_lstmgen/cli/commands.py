"""What each verb of the command line does, stage by stage."""

import argparse
from pathlib import Path

from keras_lstmgen.config import effects
from keras_lstmgen.files import atomic
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.utils.errors import UserError

with captured_stderr():
    from keras_lstmgen.cli import console, inspection_report
    from keras_lstmgen.cli.verbs.chat import run as chat
    from keras_lstmgen.cli.verbs.evaluate import run as evaluate
    from keras_lstmgen.cli.verbs.export import run as export
    from keras_lstmgen.cli.verbs.generate import run as generate
    from keras_lstmgen.cli.verbs.info import run as info
    from keras_lstmgen.cli.verbs.prepare import run as prepare
    from keras_lstmgen.cli.verbs.run_arguments import check_range as _within
    from keras_lstmgen.cli.verbs.run_arguments import find_run as _found
    from keras_lstmgen.cli.verbs.run_arguments import note_reserved_names as _tell_of_reserved
    from keras_lstmgen.cli.verbs.run_arguments import sampling_options as _drawn
    from keras_lstmgen.cli.verbs.train import run as train
    from keras_lstmgen.data import sources, splits
    from keras_lstmgen.interpret import inspect_run
    from keras_lstmgen.models import run_directory

__all__ = ["chat", "evaluate", "export", "generate", "info", "inspect", "prepare", "train"]
MOST_TEXTS = 65_536  # of one batch


def inspect(arguments: argparse.Namespace) -> None:
    """Draw a layer at work over a text."""
    _within("--max-new-tokens", arguments.max_new_tokens, 0)
    _tell_of_reserved(arguments.text)
    options = _drawn(arguments)
    effects.check_sampling(arguments)
    asked = {
        name: getattr(arguments, name) for name in inspect_run.InspectOptions.__dataclass_fields__ if name != "options"
    }
    folder = _found(arguments.run, arguments.runs)
    model = run_directory.load(folder)
    asked["prompt"] = splits.normalized_prompt(arguments.prompt, model.recipe.corpus)
    console.left_out(sources.left_out(arguments.text))
    inspection_report.inspect(model, inspect_run.InspectOptions(**asked, options=options), _folder(arguments, folder))
    console.next_command("keras-lstmgen", "evaluate", folder)


def _folder(arguments: argparse.Namespace, run_folder: Path) -> Path:
    """Return the folder for pictures; raise UserError, before anything is drawn, if it cannot be written to."""
    path: Path = arguments.output or run_folder / "inspect"
    if path.exists() and not path.is_dir():
        raise UserError(f"--output {path}: is a file; name a folder")
    atomic.check_writable(next(folder for folder in (path, *path.absolute().parents) if folder.is_dir()))
    return path
