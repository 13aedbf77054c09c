"""Run Python programs in forks of one process that has imported TensorFlow.

A new process needs seconds of CPU time to import TensorFlow. A fork needs none. No operator runs before a fork, so no
thread of TensorFlow is lost. ``python -P tests/forking.py MODULE ...`` imports the modules. Then each line of standard
input is a job, and each line of standard output is its result, both in JSON.
"""

import contextlib
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

Result = subprocess.CompletedProcess[str]


class ForkServer:
    """A process that runs programs in forks of itself.

    Args:
        modules: names of the modules to import before the first fork. A module that is not installed is left out.
        folder: working directory of the programs.
        variables: environment of the programs.
    """

    def __init__(self, modules: tuple[str, ...], folder: Path, variables: Mapping[str, str]) -> None:
        """Start the process. It imports the modules while the test goes on."""
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, *modules],
            cwd=folder, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip

    def run(self, *words: str | Path) -> Result:
        """Run a program: its path and its arguments."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps([str(word) for word in words]), file=self.process.stdin, flush=True)
        return Result(list(map(str, words)), *json.loads(self.process.stdout.readline()))


@contextlib.contextmanager
def fork_server(modules: tuple[str, ...], folder: Path, variables: Mapping[str, str]) -> Iterator[ForkServer]:
    """Start a server and end it."""
    server = ForkServer(modules, folder, variables)
    with server.process:
        yield server
        assert server.process.stdin
        server.process.stdin.close()


def _run(words: list[str], out: int, err: int) -> NoReturn:
    """Run a program in this process, which is a fork, and exit with its status."""
    for source, number in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(source, number)
    sys.stdin, sys.stdout, sys.stderr = (open(number, "r" if number == 0 else "w") for number in range(3))  # noqa: SIM115
    sys.argv, code = words, 1
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    try:
        runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _result(words: list[str]) -> list[Any]:
    """Fork, and return the exit status, the standard output and the standard error of a program."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            _run(words, out.fileno(), err.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return [status, *(file.seek(0) or file.read().decode() for file in (out, err))]


def main() -> None:
    """Import the modules, and run one job after another."""
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_result(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
