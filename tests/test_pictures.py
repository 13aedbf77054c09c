"""Pictures are whole PNGs of the size they should have, and every label can be drawn, whatever the text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_lstmgen.reporting import plots
from keras_lstmgen.utils.errors import UserError

N, U, K = 9, 5, 3
STRANGE = ["$a$", "床", "\t", "\0", "\\frac", "␣", "↵", "😀", "<0xE5>"]


def tokens(first_generated: int) -> plots.TokenAxis:
    return plots.TokenAxis(STRANGE, first_generated)


def size(path: Path) -> tuple[int, int]:
    """Width and height; decoding needs all of the file."""
    height, width, _ = tf.io.decode_png(path.read_bytes()).shape
    return width, height


def pixels(path: Path) -> Any:
    return tf.io.decode_png(path.read_bytes(), channels=3).numpy()


def test_the_curve_is_drawn_whole_or_not_at_all(tmp_path: Path) -> None:
    rows = [{"windows": 1, "seconds": 60.0, "loss": 2.0 - n, "val_loss": 2.1 - n} for n in range(2)]
    plots.loss_curve(tmp_path / "curve.png", rows)
    assert size(tmp_path / "curve.png") == (840, 480)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_every_kind_of_picture_takes_strange_labels_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    for signed in (True, False):
        name = f"heat-{signed}.png"
        plots.unit_heatmap(tmp_path / name, "a $title$", dice.random((N, U)), tokens(N // 2), range(U), signed)
    rows = [[(label, 0.9), ("x", 0.05), ("床", 0.05)] for label in STRANGE]
    plots.next_tokens(tmp_path / "next.png", tokens(N), rows, [0, 1, 2, -1, 0, 1, 2, -1, -1])
    plots.attention_weights(tmp_path / "attention.png", dice.random((N, N)), tokens(0))
    written = sorted(tmp_path.iterdir())
    assert [path.name for path in written] == ["attention.png", "heat-False.png", "heat-True.png", "next.png"]
    assert all(width >= 6 * plots.DPI and height >= 2 * plots.DPI for width, height in map(size, written))


def test_a_coloured_text_has_a_line_for_each_line_and_wraps_what_is_longer(tmp_path: Path) -> None:
    parts = ["a", "b\n", "", "\n", "c" * 100, "$床"]
    lines = plots._lines(parts, np.arange(6.0))
    assert ["".join(character for character, _ in line) for line in lines] == ["ab↵", "↵", "c" * 72, "c" * 28 + "$床"]
    assert [[value for _, value in line] for line in lines[:2]] == [[0, 1, 1], [3]]
    assert lines[3][-1] == ("床", 5)
    assert len(plots._lines(["x\n"] * 99, np.zeros(99))) == plots.LINES
    for number, some in enumerate((parts, parts[:4], ["a"])):
        plots.coloured_text(tmp_path / f"{number}.png", "cell", some, np.linspace(-1, 1, len(some)))
    heights = [size(tmp_path / f"{number}.png")[1] for number in range(3)]
    assert heights[0] > heights[1] > heights[2]


def test_a_picture_is_wider_for_more_tokens_and_higher_for_more_units(tmp_path: Path) -> None:
    sizes = {}
    for tokens, units in ((60, 20), (90, 20), (60, 30)):
        path = tmp_path / "heat.png"
        axis = plots.TokenAxis(["a"] * tokens, tokens)
        plots.unit_heatmap(path, "", np.zeros((tokens, units)), axis, range(units), False)
        sizes[tokens, units] = size(path)
    assert sizes[90, 20][0] - sizes[60, 20][0] == pytest.approx(30 * plots.TOKEN * plots.DPI, abs=2)
    assert sizes[60, 30][1] - sizes[60, 20][1] == pytest.approx(10 * plots.UNIT * plots.DPI, abs=2)


def test_an_open_gate_and_a_shut_one_look_different_where_they_are(tmp_path: Path) -> None:
    shut, opened = np.zeros((40, 8)), np.zeros((40, 8))
    opened[20:, :4] = 1  # the later half of the tokens, the upper half of the units
    for name, values in (("shut", shut), ("open", opened)):
        plots.unit_heatmap(tmp_path / f"{name}.png", "", values, plots.TokenAxis(["a"] * 40, 40), range(8), False)
    differs = (pixels(tmp_path / "shut.png") != pixels(tmp_path / "open.png")).any(axis=2)
    rows, columns = np.nonzero(differs)
    height, width = differs.shape
    assert rows.size > 0.1 * differs.size
    assert rows.max() < 0.6 * height
    assert columns.min() > 0.4 * width


def test_a_picture_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    path = tmp_path / "heat.png"
    path.write_bytes(b"before")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(UserError, match=r"heat\.png: could not be written \(No space left on device\)"):
        plots.unit_heatmap(path, "", np.zeros((2, 2)), plots.TokenAxis("ab", 2), [0, 1], True)
    assert path.read_bytes() == b"before"
    assert [found.name for found in tmp_path.iterdir()] == ["heat.png"]


@given(st.text(max_size=8))
def test_every_label_comes_out_of_characters_that_some_font_has(label: str) -> None:
    shown = plots.drawable(label)
    assert plots.drawable(shown) == shown
    assert shown.isprintable()


def test_what_no_font_has_is_shown_as_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [face for face in plots._faces() if face[0] == "DejaVu Sans"][:1]
    monkeypatch.setattr(plots, "_faces", lambda: own)
    monkeypatch.setattr(plots, "_font_of", plots._font_of.__wrapped__)
    assert [plots.drawable(label) for label in ("床", "\U00020000", "\t", "é", "␣↵")] == [
        "\\u5e8a", "\\U00020000", "\\t", "é", "␣↵",
    ]  # fmt: skip
    assert plots.fonts("a床") == ["DejaVu Sans"]


def test_a_font_of_the_machine_draws_what_the_first_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Han:
        """Has the one character."""

        def get_char_index(self, code: int) -> int:
            return int(chr(code) == "床")

    own = [face for face in plots._faces() if face[0] == "DejaVu Sans"][:1]
    monkeypatch.setattr(plots, "_faces", lambda: [*own, ("Some Han", Han())])
    monkeypatch.setattr(plots, "_font_of", plots._font_of.__wrapped__)
    assert plots.drawable("床前") == "床\\u524d"
    assert plots.fonts("a床前") == ["DejaVu Sans", "Some Han"]


def test_a_line_names_what_no_font_has_and_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [face for face in plots._faces() if face[0] == "DejaVu Sans"][:1]
    monkeypatch.setattr(plots, "_faces", lambda: own)
    monkeypatch.setattr(plots, "_font_of", plots._font_of.__wrapped__)
    assert plots.missing_characters("a\té␣") == ""
    assert "contains 床: the pictures show codes such as \\u5e8a" in plots.missing_characters("床a床")
    for character, package in (("가", "noto-cjk"), ("ក", "noto-core"), ("\U0001f9a4", "symbola")):
        assert f"fonts-{package}" in plots.missing_characters(character)
    said = plots.missing_characters("".join(map(chr, range(0x4E00, 0x4E00 + 12))))
    assert f"丁 {chr(0x4E02)} " in said
    assert " and 2 more:" in said
    assert said.count("fonts-noto-cjk") == 1


def test_a_font_that_was_installed_since_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Matplotlib keeps its list of fonts on the disk."""
    from matplotlib import font_manager

    source = next(entry.fname for entry in font_manager.fontManager.ttflist if entry.name == "DejaVu Sans Mono")
    path, added = tmp_path / "New.ttf", font_manager.fontManager.ttflist
    path.write_bytes(Path(source).read_bytes())
    (tmp_path / "Broken.ttf").write_bytes(b"no font")
    found = [str(path), str(tmp_path / "Broken.ttf")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: found)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", added.copy())
    assert any(face.fname == str(path) for _, face in plots._faces.__wrapped__())


def test_a_label_of_wide_characters_is_written_smaller() -> None:
    assert plots._fitting_size("明月") == plots._fitting_size("abcd") < plots._fitting_size("ab")
