"""Write the model card of a run: ``README.md`` in the format of the Hugging Face Hub.

The format is specified at https://huggingface.co/docs/hub/model-cards. The front matter is YAML. Its values are written
as JSON, which is a subset of YAML.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from keras_lstmgen.files import atomic, folders
from keras_lstmgen.utils.errors import UserError

CARD = "README.md"
MARK = re.compile(r"\n<!-- keras-lstmgen model card ([0-9a-f]{64}) -->\n\Z")  # the checksum of the text before it
Tables = Mapping[str, Mapping[str, Any]]


def write(folder: Path) -> bool:
    """Write the model card of a run from the other files of the run.

    A file that a user has written or changed is never replaced. ``train`` calls this function after the training, and
    ``export`` calls it again, so that the card lists the artifacts.

    Args:
        folder: folder of the run.

    Returns:
        Whether the card was written. False if the folder contains a ``README.md`` of a user.

    Raises:
        UserError: if a file of the run is damaged, or if the card cannot be written.
    """
    path = folder / CARD
    if path.exists() and not _is_own(path):
        return False
    text = _card(folder)
    atomic.write_text(path, f"{text}\n<!-- keras-lstmgen model card {_checksum(text)} -->\n")
    return True


def _is_own(path: Path) -> bool:
    """Return whether this package has written a file, and nobody has changed it since."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    mark = MARK.search(text)
    return mark is not None and mark[1] == _checksum(text[: mark.start()])


def _checksum(text: str) -> str:
    """Return the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _card(folder: Path) -> str:
    """Return the text of the model card."""
    try:
        metadata = atomic.read_json(folder / folders.METADATA)
        export = folder / "export.json"
        artifacts = atomic.read_json(export)["artifacts"] if export.is_file() else {}
        sections = [
            _front_matter(folder.name, metadata),
            f"# {folder.name}\n\nAn LSTM that generates text, trained with keras_lstmgen.",
            _model(metadata),
            _data(metadata["recipe"]),
            _training(metadata),
            _sample(folder, metadata),
            _use(folder, artifacts),
            _limits(metadata),
        ]
        return "\n\n".join(filter(None, sections))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{folder}: {CARD} cannot be written, because a file of the run is damaged ({error})"
        ) from error


def _front_matter(name: str, metadata: Mapping[str, Any]) -> str:
    """Return the YAML front matter."""
    corpus, loss = metadata["recipe"]["corpus"], metadata["metrics"]["validation"]
    metrics = [
        {"type": "perplexity", "value": loss["perplexity"], "name": "perplexity per token"},
        {"type": "loss", "value": loss["nats_per_token"], "name": "nats per token"},
        {"type": "bits_per_character", "value": loss["bits_per_character"], "name": "bits per character"},
    ]
    dataset = {"type": "text", "name": ", ".join(_names(corpus["source"])), "split": "validation"}
    task = {"type": "text-generation", "name": "text generation"}
    values = {
        "library_name": "keras",
        "pipeline_tag": "text-generation",
        "language": corpus.get("language"),
        "license": corpus.get("license"),
        "tags": ["lstm", "keras", "text-generation"],
        "model-index": [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}],
    }
    lines = [f"{key}: {_yaml(value)}" for key, value in values.items() if value]
    return "\n".join(["---", *lines, "---"])


def _yaml(value: Any) -> str:
    """Return a value as YAML. Characters that YAML does not allow are removed."""
    if isinstance(value, str) and re.fullmatch(r"[a-z][a-z-]*", value):
        return value
    return "".join(c for c in json.dumps(value, ensure_ascii=False) if c.isprintable())


def _names(sources: Sequence[str]) -> list[str]:
    """Return the names of texts without the folders of local files."""
    return [PurePosixPath(name).name if name.startswith(("/", "file:///")) else name for name in sources]


def _table(rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table. The first row is the header."""
    header, *others = [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join([f"| {header} |", "|" + "---|" * len(rows[0]), *(f"| {row} |" for row in others)])


def _model(metadata: Mapping[str, Any]) -> str:
    """Return the section about the sizes of the model."""
    model, tokenizer = metadata["recipe"]["model"], metadata["recipe"]["tokenizer"]
    names = ("embedding_size", "units", "layers", "attention", "copy", "members", "tied")
    rows = [("property", "value"), ("vocabulary", f"{metadata['vocab_size']:,} tokens of type {tokenizer['type']}")]
    rows += [(f"`{name}`", str(model[name])) for name in names if model[name] not in (0, False)]
    return f"## Model\n\n{_table(rows)}"


def _data(tables: Tables) -> str:
    """Return the section about the training text."""
    corpus = tables["corpus"]
    rows = [("property", "value"), ("texts", ", ".join(f"`{name}`" for name in _names(corpus["source"])))]
    rows += [("documents", corpus["documents"])]
    rows += [(name, corpus[name]) for name in ("language", "license") if corpus.get(name)]
    return f"## Data\n\n{_table(rows)}"


def _training(metadata: Mapping[str, Any]) -> str:
    """Return the section about the training and its metrics."""
    metrics, training = metadata["metrics"], metadata["recipe"]["training"]
    rows = [("measure on held-out text", "value")]
    rows += [(name.replace("_", " "), f"{value:.4f}") for name, value in metrics["validation"].items()]
    words = (
        f"{metrics['epochs']:.2f} epochs in {metrics['minutes']:.1f} minutes on {metrics['cores']} cores, with batches "
        f"of {training['batch_size']} × {training['window']} tokens and a learning rate of at most "
        f"{training['learning_rate']:g}. `recipe.toml` contains all settings."
    )
    if losses := metrics.get("continuation"):
        words += f" The training started from the weights of the run {losses['run']}."
    return f"## Training\n\n{words}\n\n{_table(rows)}"


def _sample(folder: Path, metadata: Mapping[str, Any]) -> str:
    """Return the section with an unedited sample of the best weights, and the command that generates it.

    Return "" if the run has no sample of its best weights.
    """
    block = _best_sample(folder, metadata["metrics"])
    if not block:
        return ""
    header, _, text = block.partition("\n")
    temperature, seed = re.findall(r"[\d.]+", header.partition(", ")[2])
    command = f"keras-lstmgen generate {shlex.quote(folder.name)} --temperature {temperature} --seed {seed}"
    text = text.removesuffix("\n\n")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"## Sample\n\nUnedited output of `{command} --max-new-tokens 160`:\n\n{fence}text\n{text}\n{fence}"


def _best_sample(folder: Path, metrics: Mapping[str, Any]) -> str:
    """Return the last sample in ``samples.txt`` that was generated with the best weights, without ``--- after``."""
    samples, history = folder / "samples.txt", folder / "history.json"
    if not (samples.is_file() and history.is_file() and "updates" in metrics):
        return ""
    best = min(atomic.read_json(history), key=lambda row: row["val_loss"])["windows"]
    start = f"{metrics['epochs'] * best / metrics['updates']:.2f} epochs, "
    blocks = re.split(r"^--- after ", samples.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return next((block for block in reversed(blocks) if block.startswith(start)), "")


def _use(folder: Path, artifacts: Tables) -> str:
    """Return the section about the use of the run and its artifacts."""
    run = shlex.quote(folder.name)
    lines = [
        "## How to use\n\n```sh",
        f'keras-lstmgen generate {run} --prompt "…" --temperature 0.8',
        "```\n\n```python\nimport keras_lstmgen as kl\n",
        f'print(kl.TextGenerator.load({json.dumps(folder.name, ensure_ascii=False)}).generate("…", temperature=0.8))',
        "```",
    ]
    rows = [("artifact", "path", "size", "texts identical to Keras", "largest logit difference")]
    for name, entry in artifacts.items():
        difference = "" if entry["difference"] is None else f"{entry['difference']:.1e}"
        proof = f"{entry['identical']} of {entry['tried']}"
        rows += [(name, f"`{entry['path']}`", f"{entry['bytes'] / 1e6:.2f} MB", proof, difference)]
    return "\n".join(lines) + (f"\n\n{_table(rows)}" if artifacts else "")


def _limits(metadata: Mapping[str, Any]) -> str:
    """Return the section about the limits of the model."""
    words = metadata["recipe"]["tokenizer"]["type"] == "word"
    unknown = "`<unk>`" if words else "byte pieces"
    return (
        "## Limits\n\nThe model continues text in the style of its training text. It has no knowledge of facts, "
        "follows no instructions, and can repeat passages and biases of its training text. "
        f"Text outside its vocabulary is read as {unknown}. The metrics hold for text like the held-out text."
    )
