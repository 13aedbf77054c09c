"""Compute the learning rate and the completed share of a training."""

import math

from keras_lstmgen.config import recipe
from keras_lstmgen.training.checkpoint import Progress

FINAL_SHARE = 0.01  # learning rate at the end of the training, as a share of the peak learning rate


def learning_rate(settings: recipe.Training, completed: float) -> float:
    """Return the learning rate at a point of the training.

    The learning rate rises linearly from 0 to its peak during the warm-up. It then decreases along a cosine curve to
    1 % of the peak.

    Source of the cosine decay: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.

    Args:
        settings: training settings of the recipe. ``learning_rate`` is the peak. ``warmup`` is the length of the
            warm-up as a share of the training.
        completed: completed share of the training, from 0 to 1.

    >>> from keras_lstmgen.config.recipe import Training
    >>> from keras_lstmgen.training.schedule import learning_rate
    >>> settings = Training(learning_rate=0.5, warmup=0.2)
    >>> [round(learning_rate(settings, completed), 4) for completed in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.25, 0.5, 0.2525, 0.005]
    """
    if completed < settings.warmup:
        return settings.learning_rate * (completed / settings.warmup)
    decayed = min((completed - settings.warmup) / max(1 - settings.warmup, 1e-9), 1.0)
    return settings.learning_rate * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * decayed)) / 2)


def completed_share(settings: recipe.Training, progress: Progress, batches_per_epoch: int) -> float:
    """Return the completed share of a training, from 0 to 1.

    If the recipe limits both epochs and minutes, the result is the larger of the two completed shares. If the
    recipe limits only the epochs, the result does not depend on the clock, so the same recipe always produces the same
    losses.

    Args:
        settings: training settings of the recipe, with the limits ``epochs`` and ``minutes``. 0 stands for no limit.
        progress: progress of the training. This function uses ``windows`` and ``seconds``.
        batches_per_epoch: number of batches per epoch.

    >>> from keras_lstmgen.config.recipe import Training
    >>> from keras_lstmgen.training.checkpoint import Progress
    >>> from keras_lstmgen.training.schedule import completed_share
    >>> completed_share(Training(epochs=4, minutes=1.0), Progress(windows=10, seconds=45.0), batches_per_epoch=10)
    0.75
    """
    by_epochs = progress.windows / (settings.epochs * batches_per_epoch) if settings.epochs else 0.0
    by_minutes = progress.seconds / (60 * settings.minutes) if settings.minutes else 0.0
    return min(max(by_epochs, by_minutes), 1.0)
