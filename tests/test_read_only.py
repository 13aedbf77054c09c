"""What has nothing to write needs no folder that can be written to: no home, no folder for temporary files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Makes every file system of this process read-only, and runs the rest of the words.
READ_ONLY = """
mount --make-rprivate /
awk '{print $2}' /proc/self/mounts | while read -r place; do mount -o remount,bind,ro "$place" 2> /dev/null; done
for place in /tmp /var/tmp /usr/tmp "$OLD_HOME"; do
    [ ! -d "$place" ] || ! [ -w "$place" ] || exit 77
done
cd / && exec "$@"
"""
NO_FOLDER = """
import sys, tempfile
tempfile._candidate_tempdir_list = lambda: []
from keras_lstmgen.cli.command_line import main
sys.exit(main())
"""


def run_without_home(*words: str) -> "subprocess.CompletedProcess[str]":
    hidden: tuple[str, ...] = ("TMPDIR", "TEMP", "TMP", "KERAS_HOME", "MPLCONFIGDIR")
    settings = {name: value for name, value in os.environ.items() if name not in hidden}
    settings |= {"HOME": "/nonexistent", "OLD_HOME": str(Path.home())}
    return subprocess.run(words, env=settings, capture_output=True, text=True)


def test_generate_runs_on_a_machine_that_is_read_only(trained: Path) -> None:
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c", READ_ONLY, "sh"]
    if run_without_home(*inside, "true").returncode:
        pytest.skip("file systems cannot be made read-only here")
    words = [sys.executable, "-P", "-m", "keras_lstmgen.generate", str(trained), "--max-new-tokens", "30"]
    done = run_without_home(*inside, *words)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 20
    told = [line for line in done.stderr.splitlines() if line.strip()]
    assert [line.split(":")[0].split(" in ")[0] for line in told] == ["30 tokens", "next"]


def test_info_runs_without_a_folder_for_temporary_files(trained: Path) -> None:
    done = run_without_home(sys.executable, "-P", "-c", NO_FOLDER, "info", str(trained))
    assert (done.returncode, done.stderr) == (0, "")
    assert "next: keras-lstmgen generate" in done.stdout
