"""Write the metrics and the plot of a training, and summarize them for the caller."""

from dataclasses import dataclass, replace
from typing import Any

from keras_lstmgen.config import recipe
from keras_lstmgen.data.splits import validation_kind
from keras_lstmgen.evaluation import likelihood
from keras_lstmgen.files import atomic
from keras_lstmgen.models import model_card, run_directory
from keras_lstmgen.reporting import plots, reporter
from keras_lstmgen.system import cpu
from keras_lstmgen.training import continuation_report
from keras_lstmgen.training.loop import Training

METRICS, CURVE = "metrics.json", "curve.png"


@dataclass(frozen=True)
class TrainingSummary:
    """Losses and sizes of a trained run.

    Attributes:
        metrics: the contents of ``metrics.json``.
        history: see ``checkpoint.Progress``.
        scored_text: description of the text on which the validation loss was measured.
        recipe: the recipe, with a value for each size.
        characters: number of characters of the training text.
    """

    metrics: dict[str, Any]
    history: list[dict[str, float]]
    scored_text: str
    recipe: recipe.Recipe
    characters: int


def summarize(training: Training) -> TrainingSummary:
    """Write the metrics and the plot of the losses, and return the summary of the training."""
    data, folder, history = training.data, training.folder, training.controller.progress.history
    metrics = _metrics(training)
    run_directory.save_metadata(folder, replace(training.run.metadata, metrics=metrics))
    atomic.write_json(folder / METRICS, metrics)
    plots.loss_curve(folder / CURVE, history)
    if not model_card.write(folder):
        reporter.message(f"{folder / model_card.CARD}: was not written by this program, and is kept")
    scored_text = validation_kind(data.recipe.corpus)
    if len(data.held_out_ids) < len(data.encoded.validation):
        scored_text = f"the first {data.scored_tokens:,} tokens of {scored_text}"
    return TrainingSummary(metrics, history, scored_text, data.recipe, data.encoded.counts["train"]["characters"])


def _metrics(training: Training) -> dict[str, Any]:
    """Return the losses of the best epoch, and the length and speed of the training."""
    data, progress = training.data, training.controller.progress
    best = min(progress.history, key=lambda row: row["val_loss"])
    counts = data.counts("validation")
    cross_entropy = best["val_loss"] * counts["tokens"]  # estimate for the whole split
    metrics = {
        "validation": likelihood.loss_in_units(cross_entropy, counts),
        "validation_tokens_scored": data.scored_tokens,
        "train_nats_per_token": best["loss"],
        "epochs": training.controller.epochs(),
        "updates": progress.windows,
        "minutes": progress.seconds / 60,
        "tokens_per_second": progress.windows * data.batch_tokens / progress.seconds,
        "cores": cpu.available(),
    }
    if data.recipe.training.init_from:
        before = run_directory.load_metadata(training.folder).metrics[continuation_report.KEY]
        losses = continuation_report.losses_after(before, training.folder, training.run, best["val_loss"])
        metrics[continuation_report.KEY] = losses
    return metrics
