"""The model card of a run: front matter for the Hugging Face Hub, sizes, metrics, a sample and the artifacts."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.models import model_card
from keras_lstmgen.training import trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose recipe names the language and the license of its text."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a | b.txt").write_text("the ferry is late, the boat is early\n" * 40, encoding="utf-8")
    values = {
        "corpus.source": str(folder / "a | b.txt"), "corpus.language": "en", "corpus.license": "cc-by-2.0",
        "model.embedding_size": 5, "model.units": 12, "model.layers": 2, "training.batch_size": 3,
        "training.window": 17, "training.epochs": 3,
    }  # fmt: skip
    return trainer.train(recipe.override(recipe.Recipe(), values), folder / "runs", "my run").folder


def front_matter(folder: Path) -> dict[str, Any]:
    """The front matter. Each value is a JSON value, which is YAML too, or a plain word."""
    text = (folder / model_card.CARD).read_text(encoding="utf-8")
    found = re.match(r"---\n(.*?)\n---\n\n# ", text, re.DOTALL)
    assert found
    pairs = [line.split(": ", 1) for line in found[1].splitlines()]
    values = {key: value if re.fullmatch("[a-z-]+", value) else json.loads(value) for key, value in pairs}
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return values
    assert yaml.safe_load(found[1]) == values
    return values


def test_the_front_matter_has_the_values_of_the_recipe_and_of_the_metrics(run: Path) -> None:
    values, loss = front_matter(run), json.loads((run / "metrics.json").read_text())["validation"]
    index = values.pop("model-index")
    assert values == {
        "library_name": "keras", "pipeline_tag": "text-generation", "language": "en", "license": "cc-by-2.0",
        "tags": ["lstm", "keras", "text-generation"],
    }  # fmt: skip
    ((result,),) = [model["results"] for model in index if model["name"] == "my run"]
    assert result["task"]["type"] == "text-generation"
    assert result["dataset"] == {"type": "text", "name": "a | b.txt", "split": "validation"}
    keys = {"perplexity": "perplexity", "loss": "nats_per_token", "bits_per_character": "bits_per_character"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        kind: loss[key] for kind, key in keys.items()
    }


def test_the_card_has_the_sizes_the_losses_and_no_folder_of_the_user(run: Path) -> None:
    text = (run / model_card.CARD).read_text(encoding="utf-8")
    loss = json.loads((run / "metrics.json").read_text())["validation"]
    for row in ("| `units` | 12 |", "| `layers` | 2 |", f"| nats per token | {loss['nats_per_token']:.4f} |"):
        assert row in text
    assert "| texts | `a \\| b.txt` |" in text
    assert str(run.parent) not in text


def test_the_sample_is_what_its_command_generates(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (run / model_card.CARD).read_text(encoding="utf-8")
    found = re.search(r"Unedited output of `keras-lstmgen (.*?)`:\n\n(`{3,})text\n(.*?)\n\2\n", text, re.DOTALL)
    assert found
    assert command_line.main([*shlex.split(found[1]), "--runs", str(run.parent)]) == 0
    assert capsys.readouterr().out == f"{found[3]}\n"


def test_a_card_of_the_user_is_kept_and_a_card_of_the_program_is_renewed(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "other"))
    assert model_card.write(copy)
    assert front_matter(copy)["model-index"][0]["name"] == "other"
    card = copy / model_card.CARD
    for content in (card.read_text(encoding="utf-8").replace("## Model", "## My model"), "# Mine\n", ""):
        card.write_text(content, encoding="utf-8")
        assert not model_card.write(copy)
        assert card.read_text(encoding="utf-8") == content
    card.unlink()
    assert model_card.write(copy)


def test_the_card_lists_the_artifacts_with_their_proofs(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "exported"))
    assert command_line.main(["export", str(copy), "--format", "tflite", "--texts", "3", "--tokens", "8"]) == 0
    entry = json.loads((copy / "export.json").read_text())["artifacts"]["tflite"]
    row = f"| tflite | `{entry['path']}` | {entry['bytes'] / 1e6:.2f} MB | 3 of 3 | {entry['difference']:.1e} |"
    assert row in (copy / model_card.CARD).read_text(encoding="utf-8")
    (copy / "samples.txt").unlink()
    assert model_card.write(copy)
    assert "## Sample" not in (copy / model_card.CARD).read_text(encoding="utf-8")
