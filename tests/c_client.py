"""The C client, built for tests: as a program, and its parts as a library."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ai_edge_litert
import pytest

SOURCES = Path(__file__).resolve().parents[1] / "export/tflite"
PARTS = ("contract.c", "encode.c", "metadata.c", "tokenizer.c", "utf8.c")
FLAGS = os.environ.get("C_CLIENT_FLAGS", "-O2")  # or -fsanitize=address,undefined


def program(folder: Path, flags: str = FLAGS) -> Path:
    """Build the client as its README says, into a folder."""
    _need("make", "cc")
    if not (Path(ai_edge_litert.__file__).parent / "libLiteRt.so").exists():
        pytest.skip("the C client needs libLiteRt.so, which this system's ai-edge-litert does not bring")
    _run("make", "--silent", f"--directory={SOURCES}", f"BUILD={folder}", f"PYTHON={sys.executable}", f"CFLAGS={flags}")
    return folder / "generate"


def library(folder: Path) -> ctypes.CDLL:
    """Build what needs no LiteRT as a shared library, and load it."""
    _need("cc")
    path = folder / "parts.so"
    options = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *FLAGS.split(), "-o", str(path)]
    _run("cc", *options, *(str(SOURCES / part) for part in PARTS), "-lm")
    return ctypes.CDLL(str(path))


def _need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"the C client needs {tool}, which is not installed")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
