"""Store requests to end a training early, and share them among all workers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from keras_lstmgen.distribution import workers


class StopRequest:
    """A request to end a training early. A signal handler or another thread makes the request.

    Attributes:
        interrupted: whether the training should end after the current batch and a final validation.
        terminated: whether the training should end after the current batch without a validation.
    """

    def __init__(self) -> None:
        """Create an object without a request."""
        self.interrupted = self.terminated = False
        self._is_accepting = False

    @contextmanager
    def accepting(self) -> Iterator[None]:
        """Accept requests inside the context. A training enters this context while it can stop early."""
        self._is_accepting = True
        try:
            yield
        finally:
            self._is_accepting = False

    def interrupt(self) -> bool:
        """Request that the training ends after the current batch and a final validation.

        Returns:
            True if the request is accepted. False if no training is running, or if an earlier request was accepted.
        """
        if not self._is_accepting or self.interrupted or self.terminated:
            return False
        self.interrupted = True
        return True

    def terminate(self) -> bool:
        """Request that the training ends after the current batch without a validation.

        Returns:
            True if the request is accepted. False if no training is running.
        """
        self.terminated |= self._is_accepting
        return self._is_accepting


class StopVotes:
    """The stop requests of all workers.

    With several workers, a request takes effect after the next call of ``total``, so that all workers stop after the
    same batch.

    Args:
        request: the stop request of this worker.
    """

    def __init__(self, request: StopRequest) -> None:
        """Store the stop request of this worker."""
        self._request = request
        self._agreed = (False, False)

    @property
    def interrupted(self) -> bool:
        """Whether all workers should end the training after a final validation."""
        return self._request.interrupted if workers.size() == 1 else self._agreed[0]

    @property
    def terminated(self) -> bool:
        """Whether all workers should end the training without a validation."""
        return self._request.terminated if workers.size() == 1 else self._agreed[1]

    def total(self, values: Sequence[float]) -> list[float]:
        """Sum values over all workers, and share the stop requests in the same operation.

        All workers must call this method at the same point of the training.

        Args:
            values: numbers of this worker; all workers must pass the same number of values.

        Returns:
            The sums over all workers, one for each value.
        """
        requests = (self._request.interrupted, self._request.terminated)
        *sums, interrupted, terminated = workers.all_reduce_sum(np.array([*values, *requests], np.float64)).tolist()
        self._agreed = (interrupted > 0, terminated > 0)
        return list(sums)
