"""Streams: windows continue each other, offsets depend on seed and epoch, no text is read whole."""

import itertools
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from keras_lstmgen.data import stream_windows
from keras_lstmgen.data.sharded_array import Shards
from keras_lstmgen.data.stream_windows import Batching, dataset, positions, windows_per_epoch
from keras_lstmgen.utils.errors import UserError

B, T = 3, 5
SIZES = st.tuples(st.integers(1, 7), st.integers(1, 9)).flatmap(
    lambda size: st.tuples(st.just(size[0]), st.just(size[1]), st.integers(size[0] * size[1] + 1, 500))
)


def elements(
    ids: NDArray[Any], epochs: int = 1, seed: int = 0, first_window: int = 0
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    return list(dataset(ids, Batching(B, T, epochs, seed, first_window)).as_numpy_iterator())


@given(SIZES, st.integers(0, 5), st.integers(0, 2**31 - 1))
def test_window_n_plus_1_of_a_row_continues_window_n(size: tuple[int, int, int], epoch: int, seed: int) -> None:
    B, T, tokens = size
    count = windows_per_epoch(tokens, B, T)
    rows = [positions(epoch * count + n, tokens, B, T, seed) for n in range(count)]
    streams = np.concatenate([window[:, :T] for window in rows], axis=1)  # (B, count * T)
    assert (np.diff(streams, axis=1) == 1).all()
    assert all(window.shape == (B, T + 1) for window in rows)
    assert all((window[:, -1] == window[:, -2] + 1).all() for window in rows)
    # Side by side the rows are one stretch of the text: nothing twice, nothing left out between them.
    assert (np.diff(streams.ravel()) == 1).all()
    assert rows[0].min() >= 0
    assert rows[-1].max() < tokens


@given(SIZES)
def test_an_epoch_has_as_many_windows_as_leave_t_offsets(size: tuple[int, int, int]) -> None:
    B, T, tokens = size
    count = windows_per_epoch(tokens, B, T)
    assert count >= 1
    assert count * B * T + 1 <= tokens
    assert (count + 1) * B * T + T > tokens
    if count > 1:
        assert tokens - 1 - count * B * T >= T - 1


def test_next_ids_are_the_ids_one_step_later_in_int32_of_static_shape() -> None:
    ids = np.arange(1000, dtype=np.uint16) + 60_000
    ds = dataset(ids, Batching(B, T, epochs=1, seed=4))
    assert ds.element_spec == (tf.TensorSpec((B, T), tf.int32), tf.TensorSpec((B, T), tf.int32))
    found = list(ds.as_numpy_iterator())
    assert len(found) == windows_per_epoch(1000, B, T) == 66
    for n, (x, y) in enumerate(found):
        expected = ids[positions(n, 1000, B, T, 4)]
        assert x.tolist() == expected[:, :-1].tolist()
        assert y.tolist() == expected[:, 1:].tolist()
        assert (y == x + 1).all()


@given(st.integers(B * T + 1, 200), st.integers(1, 4), st.integers(0, 30), st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_resuming_at_a_window_gives_what_would_have_come(tokens: int, epochs: int, first: int, seed: int) -> None:
    ids = np.arange(tokens)
    first = min(first, epochs * windows_per_epoch(tokens, B, T))
    whole = elements(ids, epochs, seed)
    assert np.array_equal(elements(ids, epochs, seed, first_window=first), whole[first:])


def test_the_offset_is_seeded_and_another_in_each_epoch() -> None:
    ids = np.arange(500)
    count = windows_per_epoch(500, B, T)

    def offsets(epochs: int, seed: int) -> list[int]:
        return [x[0, 0] for x, _ in elements(ids, epochs, seed)[::count]]

    assert len(set(offsets(20, seed=7))) > 3
    assert offsets(20, seed=7)[:10] == offsets(10, seed=7)
    assert offsets(10, seed=7) != offsets(10, seed=8)


def test_without_random_offsets_every_epoch_begins_at_the_first_id() -> None:
    ids = np.arange(7 * B * T)
    read = [x for x, _ in dataset(ids, Batching(B, T, epochs=3, seed=0), shifted=False).as_numpy_iterator()]
    count = windows_per_epoch(len(ids), B, T)
    assert [int(read[epoch * count][0, 0]) for epoch in range(3)] == [0, 0, 0]
    assert len({int(read[n][0, 0]) for n in range(count)}) == count  # within an epoch it goes on


@pytest.mark.parametrize("tokens", [B * T + 1, B * T + 4, 100, 104])
def test_the_offsets_reach_both_ends_of_the_text(tokens: int) -> None:
    count = windows_per_epoch(tokens, B, T)
    starts = {int(positions(epoch * count, tokens, B, T, 0)[0, 0]) for epoch in range(400)}
    ends = {int(positions(epoch * count - 1, tokens, B, T, 0)[-1, -1]) for epoch in range(1, 401)}
    slack = tokens - 1 - count * B * T
    assert starts == set(range(slack + 1))
    assert ends == set(range(tokens - 1 - slack, tokens))


def test_no_epochs_means_endless() -> None:
    ids = np.arange(B * T + 1)
    assert len(list(itertools.islice(dataset(ids, Batching(B, T, 0, 0)).as_numpy_iterator(), 100))) == 100
    assert int(dataset(ids, Batching(B, T, 3, 0)).cardinality()) == 3
    assert int(dataset(ids, Batching(B, T, 0, 0, first=10**12)).cardinality()) > 10**12


@pytest.mark.parametrize("tokens", [0, 1, B * T])
def test_a_text_shorter_than_one_window_a_stream_is_an_error_that_says_what_to_lower(tokens: int) -> None:
    message = re.escape(
        f"has {tokens} tokens, but a window of 5 for each of 3 streams takes 16; lower training.batch_size"
    )
    with pytest.raises(UserError, match=message):
        windows_per_epoch(tokens, B, T)
    with pytest.raises(UserError, match=message):
        dataset(np.zeros(tokens, np.uint16), Batching(B, T, 1, 0))
    assert windows_per_epoch(16, B, T) == 1


def test_windows_of_a_mapped_file_are_read_on_their_turn_and_the_file_never_whole(tmp_path: Path) -> None:
    tokens = 1 << 31  # 4 GiB that take no room on the disk
    with (tmp_path / "ids").open("wb") as file:
        file.truncate(2 * tokens)
    ids = np.memmap(tmp_path / "ids", "<u2", "r")
    tracemalloc.start()
    found = list(dataset(ids, Batching(B, T, 1, 0, first=windows_per_epoch(tokens, B, T) - 2)).as_numpy_iterator())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [x.shape for x, _ in found] == [(B, T)] * 2
    assert peak < 4_000_000


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no system that says which pages are mapped")
def test_pages_that_were_read_are_let_go_of(tmp_path: Path) -> None:
    (np.arange(8 * stream_windows.PIECE) % 7).astype(np.uint16).tofile(tmp_path / "ids")  # 16 MB
    ids = np.memmap(tmp_path / "ids", "<u2", "r")
    assert held(tmp_path / "ids") == 0
    peaks = [held(tmp_path / "ids") for piece in stream_windows.pieces(ids) if piece.max() == 6]
    assert len(peaks) == 8
    assert 0 < max(peaks) <= 3 * stream_windows.PIECE  # a piece of 2 MiB, and what the system reads ahead
    assert held(tmp_path / "ids") == 0


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no system that says which pages are mapped")
def test_pages_that_were_read_of_shards_are_let_go_of_too(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.ids" for number in range(4)]
    for path in paths:
        (np.arange(2 * stream_windows.PIECE) % 7).astype(np.uint16).tofile(path)  # 4 MB
    ids: Any = Shards(paths, [2 * stream_windows.PIECE] * 4, "<u2")
    peaks = [sum(map(held, paths)) for piece in stream_windows.pieces(ids) if piece.max() == 6]
    assert len(peaks) == 8
    assert 0 < max(peaks) <= 4 * stream_windows.PIECE  # of one file
    assert sum(map(held, paths)) == 0


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no system that says which pages are mapped")
def test_pages_that_windows_were_read_from_are_let_go_of_now_and_then(tmp_path: Path) -> None:
    with (tmp_path / "ids").open("wb") as file:
        file.truncate(1 << 28)
    ids, rows, steps = np.memmap(tmp_path / "ids", "<u2", "r"), 4, 20_000
    read = dataset(ids, Batching(rows, steps, 1, 0)).take(3 * stream_windows.RELEASE_INTERVAL)
    peak = max(held(tmp_path / "ids") for number, _ in enumerate(read) if number % 20 == 0)
    assert 0 < peak < 1.5 * stream_windows.RELEASE_INTERVAL * rows * steps * ids.itemsize


def held(path: Path) -> int:
    """Bytes of a mapped file in this process's memory."""
    _, _, after = Path("/proc/self/smaps").read_text().partition(f"{path}\n")
    return 1024 * int(re.findall(r"Rss: +(\d+) kB", after)[0]) if after else 0


def test_counts_are_those_of_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_windows, "PIECE", 7)
    ids = np.random.default_rng(0).integers(0, 5, 100).astype(np.uint16)
    assert stream_windows.counts(ids, 9).tolist() == [int((ids == token).sum()) for token in range(9)]


def test_nothing_tunes_the_pipeline_whose_end_would_wait_for_it() -> None:
    """TensorFlow's tuner wakes up after 10 ms, 20 ms, 40 ms, ... and the end of ``fit`` waits for its next time."""
    assert (
        stream_windows.dataset(np.arange(99), Batching(B=3, T=7, epochs=1, seed=0)).options().autotune.enabled is False
    )
