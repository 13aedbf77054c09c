"""Run a verb of the command line and return its exit status.

TensorFlow is imported only when a verb runs, so that ``--help`` is fast.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from keras_lstmgen.cli import prompt_file
from keras_lstmgen.cli.parser import build_parser
from keras_lstmgen.distribution import launcher
from keras_lstmgen.reporting import reporter
from keras_lstmgen.system import cpu, environment, malloc, signals, standard_streams
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.utils.errors import ReaderLeft, Terminated, UserError, visible

# These verbs end if the reader of a pipe closes it, because they only print. The other verbs continue.
PRINTING = ("generate", "chat", "info")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status.

    Args:
        argv: command line arguments, beginning with the verb; ``sys.argv[1:]`` if None.

    Returns:
        0 after success, 2 after an error, 130 after Ctrl-C, and 143 after SIGTERM. An error is printed as one line to
        standard error. ``train --workers N`` returns the status of the first worker that failed.
    """
    with standard_streams.streams() as output:
        return _status(argv, output)


def _status(argv: Sequence[str] | None, output: standard_streams.Output) -> int:
    """Run the command and return its exit status; convert exceptions to error messages and statuses."""
    try:
        with signals.raise_terminated():
            return _command(argv, output)
    except UserError as error:
        return _failed(str(error))
    except ReaderLeft:
        return 0
    except OSError as error:  # for example, the disk is full, or a folder is not writable
        return _failed(f"{error.filename or 'reading or writing'}: {error.strerror or error}")
    except MemoryError:
        return _failed("not enough memory; use a smaller text, model or batch")
    except KeyboardInterrupt:
        return 130
    except Terminated as ended:
        return _failed(str(ended), 143)


def _failed(message: str, status: int = 2) -> int:
    """Print an error message as one line to standard error, and return the exit status."""
    print(f"keras-lstmgen: {visible(message)}", file=sys.stderr)
    return status


def _command(argv: Sequence[str] | None, output: standard_streams.Output) -> int:
    """Parse the command line, run the verb, and check that all output was written."""
    arguments = build_parser().parse_args(argv)
    output.goes_on = arguments.verb not in PRINTING
    status = _verb(arguments, sys.argv[1:] if argv is None else argv)
    sys.stdout.flush()
    output.check()
    return status


def _verb(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Configure the process and run a verb. With ``--workers N``, start N worker processes that run the verb.

    Args:
        arguments: the parsed command line.
        words: the unparsed command line arguments, for the workers.
    """
    environment.configure()
    if getattr(arguments, "prompts", None) is not None:
        arguments.prompts = prompt_file.read(arguments.prompts)  # a bad line ends the command before TensorFlow starts
    if getattr(arguments, "workers", 1) > 1:
        return launcher.launch(words, arguments.workers)
    cpu.configure()
    malloc.configure()
    with environment.without_matplotlib(), captured_stderr():
        from keras_lstmgen.cli.console_reporter import ConsoleReporter

        verb = importlib.import_module(f"keras_lstmgen.cli.verbs.{arguments.verb}")  # imports TensorFlow
    with reporter.use(ConsoleReporter()):
        verb.run(arguments)
    return 0
