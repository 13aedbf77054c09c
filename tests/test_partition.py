"""The parts that workers read are the text, side by side as the split has it."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_lstmgen.config import recipe
from keras_lstmgen.data import splits, token_cache
from keras_lstmgen.preparation import partition
from keras_lstmgen.utils.errors import UserError

TEXTS = st.text(
    st.characters(exclude_characters="\0\ufeff\r", exclude_categories=["Cs"])
    | st.sampled_from("e\u0301\u0323\u1100\u1161\ufb01"),
    max_size=40,
)
MARKS = st.sampled_from(["", "\ufeff"])  # at the start of a file


def pieces(settings: recipe.Corpus, split: splits.Split) -> list[str]:
    try:
        return list(splits.pieces(settings, split))
    except UserError:  # no text on this side
        return []


def parts(settings: recipe.Corpus) -> list[partition.Part]:
    """What workers are given, without a runner."""
    plan = partition.plan(settings)
    if settings.documents == "stream":
        counted = dict(partition.measure(part, settings) for part in plan)
        return list(partition.cut_stream(None, counted, plan, settings))
    return plan


@settings(max_examples=60)
@example(["\ufeff", "a", "\ufeff", "", "b\n", "c"], 1, 0.5, 0, "stream", "none")
@given(
    texts=st.lists(st.builds(str.__add__, MARKS, st.lists(TEXTS).map("\n".join)), min_size=1, max_size=4),
    size=st.integers(1, 60),
    fraction=st.floats(0, 0.9), seed=st.integers(0, 5), documents=st.sampled_from(["stream", "lines", "blocks"]),
    normalize=st.sampled_from(["none", "nfc", "nfkc"]),
)  # fmt: skip
def test_parts_share_the_text_out_as_the_split_does(
    texts: list[str], size: int, fraction: float, seed: int, documents: str, normalize: str
) -> None:
    """Each side of the split is its parts, one after another; of a stream each but the first begins a line."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "PART", size)
        for number, text in enumerate(texts):
            Path(folder, f"{number}.txt").write_text(text, encoding="utf-8", newline="")
        sources = tuple(str(Path(folder, f"{number}.txt")) for number in range(len(texts)))
        asked = recipe.Corpus(
            sources, documents=documents, validation_fraction=fraction, split_seed=seed, normalize=normalize
        )
        for split in token_cache.SPLITS:
            shared = [list(partition.texts(part, asked, split)) for part in parts(asked)]
            whole = pieces(asked, split)
            if documents == "stream":
                assert "".join(map("".join, shared)) == "".join(whole)
                assert all(text[-1][-1] == "\n" for text in list(filter(None, shared))[:-1])
            else:
                assert [document for texts in shared for document in texts] == whole
