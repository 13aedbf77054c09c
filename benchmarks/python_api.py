"""Measure four programs that use the Python API: lines of code, and seconds of a whole new process.

    python -m benchmarks.python_api
    python -m benchmarks.python_api --rounds 5 --documents 500

The text is the language reference of Python, with one document per topic. Each program runs in a new process, so its
seconds contain the import of TensorFlow and the compilation of the model.
"""

import pydoc_data.topics
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Table, console, publish

# In this order, each program finds the files of the programs before it in its working directory.
PROGRAMS = {
    "train on a list of strings, and save": """
        import keras_lstmgen as kl
        texts = open("texts.txt", encoding="utf-8").read().split("\\f")
        lm = kl.TextGenerator(units=128, layers=1)
        lm.fit(texts, epochs=1)
        lm.save("run", overwrite=True)
        """,
    "load, and generate 200 characters": """
        import keras_lstmgen as kl
        lm = kl.TextGenerator.load("run")
        print(lm.generate("The ", max_new_tokens=200, seed=7))
        """,
    "continue on a new list of strings, and save": """
        import keras_lstmgen as kl
        texts = open("new.txt", encoding="utf-8").read().split("\\f")
        lm = kl.TextGenerator.load("run")
        lm.fit(texts, epochs=1)
        lm.save("second", overwrite=True)
        """,
    "export your own Keras model to TFLite": """
        import keras, keras_lstmgen as kl
        characters = sorted(set(open("texts.txt", encoding="utf-8").read()) - {"\\f"})
        layers = [keras.layers.Embedding(len(characters), 64), keras.layers.LSTM(128, return_sequences=True)]
        model = keras.Sequential([keras.Input((None,), dtype="int32"), *layers, keras.layers.Dense(len(characters))])
        kl.export_model(model, vocabulary=characters, path="out", formats=["tflite"])
        """,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the programs."""
    parser = measure.parser("python_api", __doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=len(pydoc_data.topics.topics) // 2)
    arguments = parser.parse_args(argv)
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(arguments.rounds):
        for name, measured in run_all(arguments.documents).items():
            seconds[name].append(measured)
    results = {"documents": arguments.documents, "seconds": seconds}
    publish("python_api", results, [table(seconds)], arguments.results)
    return 0


def run_all(documents: int) -> dict[str, float]:
    """Run each program once in a temporary folder, and return its seconds."""
    topics = list(pydoc_data.topics.topics.values())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts.txt").write_text("\f".join(topics[:documents]), encoding="utf-8")
        (folder / "new.txt").write_text("\f".join(topics[documents : 2 * documents]), encoding="utf-8")
        return {title: run(title, folder) for title in PROGRAMS}


def run(title: str, folder: Path) -> float:
    """Run a program in a new process, and return its seconds; raise CalledProcessError if it fails."""
    path = folder / "program.py"
    path.write_text(code(title), encoding="utf-8")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-P", path], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    console.print(f"{title}: {seconds:.1f} s")
    return seconds


def code(title: str) -> str:
    """Return a program without its indentation."""
    return textwrap.dedent(PROGRAMS[title]).strip() + "\n"


def table(seconds: Mapping[str, Sequence[float]]) -> Table:
    """Return the lines of code and the median of the seconds for each program."""
    rows = [[name, str(len(code(name).splitlines())), f"{statistics.median(s):.1f}"] for name, s in seconds.items()]
    return Table("Programs with the Python API, each in a new process", ["program", "lines", "seconds"], rows)


if __name__ == "__main__":
    sys.exit(main())
