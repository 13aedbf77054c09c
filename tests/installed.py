"""Train, generate, export and run a client with an installed package, for ``make wheel`` and test_wheel.py.

It runs in an empty working directory, so it finds no recipe and no client of the checkout.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

TRAIN = "train quickstart --model.units 24 --model.layers 1 --model.embedding_size 9 --training.minutes 0.1"
SAMPLING = ("--prompt", "The ", "--temperature", "0.8", "--seed", "7", "--max-new-tokens", "60")
CHECKOUT = Path(__file__).resolve().parents[1]


def run(folder: Path, *words: str) -> str:
    """Run Python with some arguments in a folder, and return its standard output."""
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def verb(folder: Path, *words: str) -> str:
    """Run a verb of the command line."""
    return run(folder, "-m", f"keras_lstmgen.{words[0]}", *words[1:])


def main() -> None:
    """Compare the text of ``generate`` with the text of the TFLite client."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        place = Path(run(folder, "-c", "import keras_lstmgen; print(keras_lstmgen.__file__, end='')")).parent
        if CHECKOUT in place.parents and not (place / "packaged").is_dir():
            raise SystemExit(f"{place}: is the checkout, not an installed package")
        verb(folder, *TRAIN.split())
        verb(folder, "export", "quickstart", "--format", "tflite")
        verb(folder, "clients", "copied")
        wanted = verb(folder, "generate", "quickstart", *SAMPLING)
        client = "copied/export/tflite/generate.py"
        found = run(folder, client, "saved_models/quickstart/tflite/model.tflite", *SAMPLING)
        if found.strip() != wanted.strip().removeprefix("The ").strip():
            raise SystemExit(f"the client generates {found!r}, and Keras generates {wanted!r}")
        print(f"{place}: trained, exported, and the client generates the text of Keras")


if __name__ == "__main__":
    main()
