"""The memory of large arrays is reused as soon as nothing refers to it, and never before."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.layers import memory_pool

LARGE = memory_pool.MINIMUM + 16


@pytest.fixture(autouse=True)
def empty_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_pool, "_blocks", [])


def test_the_memory_of_an_array_that_nothing_refers_to_is_given_out_again() -> None:
    address = memory_pool.allocate(LARGE).ctypes.data
    assert memory_pool.allocate(LARGE).ctypes.data == address
    assert len(memory_pool._blocks) == 1


def test_a_view_keeps_the_memory_of_its_array() -> None:
    view = memory_pool.allocate(LARGE).view(np.float32).reshape(-1, 2)[3:, 1]
    view[:] = 7
    memory_pool.allocate(LARGE)[:] = 0
    assert np.all(view == 7)


def test_unused_memory_of_other_sizes_is_freed_when_a_new_size_is_needed() -> None:
    kept = memory_pool.allocate(LARGE)
    for size in range(LARGE, LARGE + 9):
        memory_pool.allocate(size)
    assert sorted(block.size for block in memory_pool._blocks) == [
        size + memory_pool.ALIGNMENT for size in (kept.size, LARGE + 8)
    ]


@given(sizes=st.lists(st.sampled_from([0, 1, 63, LARGE, LARGE + 1]), min_size=1, max_size=6))
def test_arrays_in_use_never_overlap_and_are_aligned(sizes: list[int]) -> None:
    arrays = [memory_pool.allocate(size) for size in sizes]
    assert [array.size for array in arrays] == sizes
    assert all(array.ctypes.data % memory_pool.ALIGNMENT == 0 for array in arrays if array.size)
    ranges = sorted((array.ctypes.data, array.ctypes.data + array.size) for array in arrays if array.size)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))


def test_threads_get_different_memory() -> None:
    arrays: list[int] = []
    ready, done = threading.Barrier(5), threading.Barrier(5)

    def take() -> None:
        ready.wait()
        array = memory_pool.allocate(LARGE)
        arrays.append(array.ctypes.data)
        done.wait()

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(arrays)) == 5
