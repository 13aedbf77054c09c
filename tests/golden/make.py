"""Make the golden files anew.

    python -m tests.golden.make --artifacts    # those of the run that lies there: after a change of an exporter
    python -m tests.golden.make                # all of it

The run next to this file is trained on ``text.txt`` and exported, and Keras writes every case of ``CASES`` to
``texts.json``, which ``tests/test_golden.py`` holds every client against. Trained again, on another processor or by
other code, the run has other weights and writes other texts; what counts is that all clients write those that stand
there. So what an exporter changes is made without training.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_lstmgen.config import recipe  # (after the variable)
from keras_lstmgen.exporters import export_run
from keras_lstmgen.files import atomic
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import trainer

HERE = Path(__file__).resolve().parent
RUN, TEXTS = HERE / "run", HERE / "texts.json"
TRAINED = ("keras_lstmgen.json", "tokenizer.model", "model.keras")
ARTIFACTS = ("tflite/model.tflite", "onnx/model.onnx")
SETTINGS = {
    "corpus.source": ["tests/golden/text.txt"], "corpus.documents": "blocks",
    "corpus.validation": ["tests/golden/text.txt"],
    "tokenizer.vocab_size": 48,  # rare characters, most of the Chinese ones among them, are spelled by their bytes
    "model.embedding_size": 7, "model.units": 24, "model.layers": 1, "model.dropout": 0.0,
    "training.batch_size": 4, "training.window": 33, "training.epochs": 60, "training.patience": 0,
    "training.learning_rate": 0.02, "training.precision": "float32", "training.seed": 7,
    "export.formats": ["tflite", "onnx"],
}  # fmt: skip

# Prompt, seed, limit, options. Seeds are strings in the file: not every language reads 64 bits as a number.
CASES: list[tuple[str, int, int, dict[str, float]]] = [
    # Prompts.
    ("", 0, 60, {}),
    ("The cat ", 1, 60, {}),
    ("The ", 2, 200, {}),
    ("In the morning\n", 3, 60, {}),
    ("月亮", 4, 60, {}),
    ("今天下雨，", 5, 60, {}),
    ("猫 and 狗\n", 6, 60, {}),
    ("😀", 7, 60, {}),
    ("👩‍🚀 é ß 한 ", 8, 60, {}),
    (" \t\r\n\n  x", 9, 60, {}),
    ("<s></s><unk><0x41>", 10, 60, {}),
    ("▁The▁sea", 11, 60, {}),
    ("The cat sits at the window and looks at the rain.\nShe knows that it will stop. " * 3, 12, 60, {}),
    ("T", 13, 1, {}),
    # Seeds.
    ("The sea ", -1, 40, {}),
    ("The sea ", 2**64 - 1, 40, {}),
    ("The sea ", 2**32, 40, {}),
    ("The sea ", -(2**63), 40, {}),
    ("The sea ", 2**63 + 12345, 40, {}),
    ("The sea ", 0x0123456789ABCDEF, 40, {}),
    # Each option, its edges among them.
    ("The ", 20, 60, {"temperature": 0}),
    ("", 21, 60, {"temperature": 0, "repetition_penalty": 1.2}),
    ("The ", 22, 60, {"temperature": 1e-6}),
    ("The ", 23, 60, {"temperature": 1e6}),
    ("月", 24, 60, {"temperature": 2.5}),
    ("The ", 25, 60, {"top_k": 1}),
    ("The ", 26, 60, {"top_k": 5}),
    ("The ", 27, 60, {"top_k": 2**31 - 1}),
    ("The ", 28, 60, {"top_p": 0.9}),
    ("The ", 29, 60, {"top_p": 1e-6}),
    ("The ", 30, 60, {"top_p": 0.9999}),
    ("The ", 31, 60, {"min_p": 0.05}),
    ("The ", 32, 60, {"min_p": 1}),
    ("The ", 33, 60, {"repetition_penalty": 1.3}),
    ("The ", 34, 60, {"repetition_penalty": 0.7}),
    ("The ", 35, 60, {"repetition_penalty": 1e6}),
    ("The ", 36, 60, {"repetition_penalty": 1e-6}),
    # Several at once.
    ("We walk ", 40, 60, {"temperature": 0.7, "top_k": 20}),
    ("春天来了", 41, 60, {"temperature": 1.2, "top_p": 0.95, "min_p": 0.02}),
    ("Do not ", -42, 60, {"repetition_penalty": 1.1, "temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.01}),
    ("🚀 他", 43, 60, {"repetition_penalty": 0.9, "temperature": 3, "top_k": 80, "top_p": 0.99, "min_p": 0.001}),
]


def main() -> None:
    """Make what the command line asks for; what was there is replaced once all of it is made."""
    parser = argparse.ArgumentParser(description="Make the golden files anew.")
    parser.add_argument("--artifacts", action="store_true", help="of the run that lies there, which stays as it is")
    arguments = parser.parse_args()
    os.chdir(HERE.parents[1])  # the recipe, which the artifacts carry, names the text as it lies in the repository
    settings = recipe.override(recipe.Recipe(), SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.artifacts:
            made = Path(shutil.copytree(RUN, Path(folder) / "golden"))
            export_run.export(made, settings.export)
            keep(made, ARTIFACTS)
            return
        made = trainer.train(settings, Path(folder), "golden").folder
        export_run.export(made, settings.export)
        texts = write(run_directory.load(made))
        keep(made, (*TRAINED, *ARTIFACTS))
    atomic.write_text(TEXTS, json.dumps(texts, ensure_ascii=False, indent=1) + "\n")


def keep(made: Path, names: tuple[str, ...]) -> None:
    """Copy files of a run over those that lie here."""
    for name in names:
        (RUN / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made / name, RUN / name)


def write(model: run_directory.Run) -> list[dict[str, Any]]:
    """What Keras writes in each case."""
    generator, written = Generator(model), []
    for prompt, seed, limit, options in CASES:
        drawn = Options(**options)  # type: ignore[arg-type]  # top_k is whole
        sample = generator.generate(prompt, GenerationConfig(limit, drawn), seeds=[seed])[0]
        case = {"prompt": prompt, "seed": str(seed), "max_new_tokens": limit, "options": options}
        written.append(case | {"text": sample.text, "finish_reason": sample.finish_reason})
    return written


if __name__ == "__main__":
    main()
