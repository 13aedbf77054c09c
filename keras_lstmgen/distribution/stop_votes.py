"""Requests to end a training early, and the agreement of all workers on them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from keras_lstmgen.distribution import workers


class StopRequest:
    """A request to end a training early, made by a signal handler or by another thread.

    Attributes:
        interrupted: whether the training shall end after the current batch and a last validation.
        terminated: whether the training shall end after the current batch, without a validation.
    """

    def __init__(self) -> None:
        """Create an object that holds no request yet."""
        self.interrupted = self.terminated = False
        self._is_accepting = False

    @contextmanager
    def accepting(self) -> Iterator[None]:
        """Accept requests inside the context, in which a training checks for them."""
        self._is_accepting = True
        try:
            yield
        finally:
            self._is_accepting = False

    def interrupt(self) -> bool:
        """Request an end after the current batch and a last validation.

        Returns:
            Whether the training will end because of this call. False if no training checks for requests now, or if the
            training is already about to end.
        """
        if not self._is_accepting or self.interrupted or self.terminated:
            return False
        self.interrupted = True
        return True

    def terminate(self) -> bool:
        """Request an end after the current batch, without a validation.

        Returns:
            Whether a training checks for requests now.
        """
        self.terminated |= self._is_accepting
        return self._is_accepting


class StopVotes:
    """The stop requests of all workers, each of which takes effect when every worker knows it.

    Args:
        request: the stop request of this worker.
    """

    def __init__(self, request: StopRequest) -> None:
        """Create the votes of this worker."""
        self._request = request
        self._agreed = (False, False)

    @property
    def interrupted(self) -> bool:
        """Whether the training ends after a last validation."""
        return self._request.interrupted if workers.size() == 1 else self._agreed[0]

    @property
    def terminated(self) -> bool:
        """Whether the training ends without a validation."""
        return self._request.terminated if workers.size() == 1 else self._agreed[1]

    def total(self, values: Sequence[float]) -> list[float]:
        """Sum values over all workers, and exchange the stop requests along with them.

        All workers must call this method at the same point.

        Args:
            values: numbers, as many on each worker.
        """
        requests = (self._request.interrupted, self._request.terminated)
        *sums, interrupted, terminated = workers.all_reduce_sum(np.array([*values, *requests], np.float64)).tolist()
        self._agreed = (interrupted > 0, terminated > 0)
        return list(sums)
