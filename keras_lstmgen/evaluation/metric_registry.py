"""Register the measures that ``evaluate`` can compute in addition to the loss.

A measure is a function that takes a ``Task`` and returns a table. For each measure, the registry contains the
name of the function and the name of its module. The module is imported only when the measure is computed, so an
optional package is needed only for the measures that use it.
"""

from importlib import import_module
from typing import Any, NamedTuple

from keras_lstmgen.evaluation.task import Figures, Task
from keras_lstmgen.utils.optional_packages import import_optional


class Measure(NamedTuple):
    """The registry entry of a measure."""

    module: str  # module of the function
    function: str  # name of the function, which takes a ``Task`` and returns ``Figures``
    optional: tuple[str, ...] = ()  # optional modules that the function imports
    reads_training: bool = False  # whether the function reads the training text


CORE = "keras_lstmgen.evaluation.task_metrics"
SACREBLEU, ROUGE, SKLEARN = "sacrebleu.metrics.bleu", "rouge_score.rouge_scorer", "sklearn"
MEASURES = {
    "bleu": Measure(CORE, "bleu", (SACREBLEU, SKLEARN), reads_training=True),
    "rouge": Measure(CORE, "rouge", (ROUGE,)),
    "exact_match": Measure(CORE, "exact_match", (SKLEARN,), reads_training=True),
    "recall": Measure(CORE, "recall", reads_training=True),
    "distinct_2": Measure(CORE, "distinct_2"),
    "kind": Measure(CORE, "kind", (SKLEARN,), reads_training=True),
    "ngram": Measure(CORE, "ngram", reads_training=True),
    "verses": Measure("keras_lstmgen.recipe_measures.quatrains", "verses", reads_training=True),
}


def check_packages(name: str) -> None:
    """Raise UserError if an optional package of a measure is missing.

    Args:
        name: name of the measure in ``evaluate.measures``.
    """
    for module in MEASURES[name].optional:
        import_optional(module, name)


def compute(task: Task) -> dict[str, Figures]:
    """Compute the measures that the options of a task select, and return the table of each measure by name."""
    return {name: _function(MEASURES[name])(task) for name in task.options.measures}


def _function(measure: Measure) -> Any:
    """Import and return the function of a measure."""
    return getattr(import_module(measure.module), measure.function)
