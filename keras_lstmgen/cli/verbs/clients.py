"""Run the verb ``clients``: copy the programs that run an artifact without this package."""

import argparse
import shutil

from keras_lstmgen.cli import console
from keras_lstmgen.files import atomic, packaged
from keras_lstmgen.utils.errors import UserError

CLIENTS = "export"  # the clients import each other by this name, so a copy has the same name
IGNORED = ("node_modules", "__pycache__", ".*")


def run(arguments: argparse.Namespace) -> None:
    """Copy the clients to the subfolder ``export`` of a folder.

    Raises:
        UserError: the subfolder exists, or cannot be written.
    """
    target = arguments.folder / CLIENTS
    if target.exists() or target.is_symlink():
        raise UserError(f"{target}: exists already, and nothing is overwritten; give another folder or rename {target}")
    with atomic.replacing(target) as path:
        shutil.copytree(packaged.folder(CLIENTS), path, ignore=shutil.ignore_patterns(*IGNORED))
    console.out.print(f"{target}: contains the clients; {target / 'README.md'} describes them", markup=False)
