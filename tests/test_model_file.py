"""``model.keras`` of each kind of run opens in a fresh process as saved_models/README.md says, with the same logits."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_lstmgen.config import recipe
from keras_lstmgen.models import builder
from keras_lstmgen.training import trainer
from keras_lstmgen.training.callbacks.validation import copy_weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
B, T, E, H, L, V = 2, 6, 5, 7, 2, 11
IDS = np.random.default_rng(0).integers(0, V, (B, T))
SIZES = {
    "model.embedding_size": E, "model.units": H, "model.layers": L, "model.dropout": 0.1, "model.input_dropout": 0.2,
    "model.embedding_dropout": 0.0, "model.activation_regularization": 0.0, "training.batch_size": 3,
    "training.window": 4, "training.epochs": 1,
}  # fmt: skip
TIED = {"model.tied": True, "model.embedding_size": H}
ATTENTIVE = {"model.attention": 4}
COPYING = {**ATTENTIVE, "model.copy": True, "training.state": "fresh", "corpus.documents": "lines"}
REGULARIZED = {
    "model.weight_drop": 0.3, "model.embedding_dropout": 0.2, "model.activation_regularization": 2.0,
    "training.average": 5,
}  # fmt: skip
OF_KERAS_ALONE: dict[str, dict[str, Any]] = {
    "plain": {},
    "float32": {"training.precision": "float32"},
    "bfloat16": {"training.precision": "bfloat16"},
    "regularized": REGULARIZED,
    "sampled": {"training.sampled_softmax": 4},
}
WITH_OUR_LAYERS: dict[str, dict[str, Any]] = {
    "tied": TIED,
    "attentive": ATTENTIVE,
    "several": {"model.members": 2},
    "copying": COPYING,
    "several_attentive_tied": {**TIED, **ATTENTIVE, "model.members": 2},
    "copying_tied_regularized": {**TIED, **COPYING, **REGULARIZED},
    "attentive_sampled_bfloat16": {**ATTENTIVE, "training.sampled_softmax": 4, "training.precision": "bfloat16"},
}
KINDS = OF_KERAS_ALONE | WITH_OUR_LAYERS
PATH = "saved_models/my_book/model.keras"  # in the README


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a ``model.keras`` of each kind, made as training makes it, and the logits of each for ``IDS``."""
    folder, logits = tmp_path_factory.mktemp("kinds"), {}
    for name, values in KINDS.items():
        settings = recipe.override(recipe.Recipe(), {**SIZES, **values})
        trained = trainer.compile_model(settings, np.arange(1, V + 1))
        written = builder.build(settings.model, V)
        copy_weights(trained, written)
        written.save(folder / f"{name}.keras")
        logits[name] = written(IDS, training=False).numpy()
    return folder, logits


def documented() -> str:
    """The example of saved_models/README.md."""
    page = (ROOT / "saved_models/README.md").read_text(encoding="utf-8")
    return next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if PATH in block)


def opened(saved: Path, out: Path, example: str, names: list[str]) -> dict[str, Any]:
    """Run the example in a fresh process, once for each name; give the logits by name, and what was imported."""
    lines = ["import sys", "import numpy as np", f"ids = np.array({IDS.tolist()})", "found = {}"]
    for name in names:
        lines += [example.replace(PATH, str(saved / f"{name}.keras")), f"found[{name!r}] = np.array(logits)"]
    lines += [f"np.savez({str(out)!r}, ours='keras_lstmgen' in sys.modules, **found)"]
    done = subprocess.run([sys.executable, "-P", "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(out))


def test_every_kind_of_run_opens_in_a_fresh_process_by_the_documented_lines(
    saved: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    found = opened(saved[0], tmp_path / "found.npz", documented(), list(KINDS))
    for name in KINDS:
        np.testing.assert_allclose(found[name], saved[1][name], atol=1e-6, err_msg=name)


def test_a_run_of_keras_layers_alone_opens_without_this_package(
    saved: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    example = "\n".join(line for line in documented().splitlines() if "keras_lstmgen" not in line)
    found = opened(saved[0], tmp_path / "found.npz", example, list(OF_KERAS_ALONE))
    assert not found.pop("ours")
    for name in OF_KERAS_ALONE:
        np.testing.assert_allclose(found[name], saved[1][name], atol=1e-6, err_msg=name)
