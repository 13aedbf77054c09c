"""Ids in several files are read as one array."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.data import sharded_array
from keras_lstmgen.data.sharded_array import Shards
from keras_lstmgen.utils.errors import UserError


def written(folder: Path, sizes: list[int], dtype: str = "<u2") -> tuple[Shards, np.ndarray]:
    """Shards of random ids, and the same as one array."""
    ids = np.random.default_rng(0).integers(1 << 15, size=sum(sizes)).astype(dtype)
    paths = [folder / f"{number}.ids" for number in range(len(sizes))]
    for path, part in zip(paths, np.split(ids, np.cumsum(sizes)[:-1]), strict=True):
        part.tofile(path)
    return Shards(paths, sizes, dtype), ids


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), data=st.data())
def test_slices_and_index_arrays_are_those_of_one_array(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    found, ids = written(tmp_path_factory.mktemp("shards"), sizes)
    assert len(found) == len(ids)
    start, stop = (data.draw(st.none() | st.integers(-60, 60)) for _ in range(2))
    assert found[start:stop].tolist() == ids[start:stop].tolist()
    assert found[start:stop].tobytes() == ids[start:stop].tobytes()
    places = np.array(data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=6, max_size=6))).reshape(2, 3)
    assert found[places].tolist() == ids[places].tolist()


def test_few_files_are_mapped_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded_array, "MAPS", 2)
    found, ids = written(tmp_path, [3] * 50, "<i4")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert found[np.arange(150)].tolist() == ids.tolist()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_a_shard_that_went_away_is_named(tmp_path: Path) -> None:
    found, _ = written(tmp_path, [3, 4])
    (tmp_path / "1.ids").unlink()
    with pytest.raises(UserError, match=r"1\.ids: cannot be read"):
        found[2:5]
