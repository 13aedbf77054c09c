"""What people see is what was measured, and nothing in a text or a name is taken for markup."""

import io
import math
import re
import shlex
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import pytest
from rich.console import Console

from keras_lstmgen.cli import console
from keras_lstmgen.cli.display import training_hint, training_screen
from keras_lstmgen.cli.display.training_screen import TrainingScreen, loss_figures
from keras_lstmgen.config import recipe
from keras_lstmgen.data.splits import Split


def row(loss: float, val_loss: float) -> dict[str, float]:
    return {"windows": 1, "seconds": 60.0, "loss": loss, "val_loss": val_loss}


RISEN = [row(2.0, 2.1), row(1.8, 2.0), row(1.5, 2.2)]
HALF_A_MEGABYTE = 480_000  # characters


def hint(
    characters: int = HALF_A_MEGABYTE, history: list[dict[str, float]] = RISEN, folder: str = "runs/x", **values: Any
) -> str:
    """The hint after a training, with values of its recipe such as ``model__dropout``."""
    settings = recipe.override(recipe.Recipe(), {name.replace("__", "."): value for name, value in values.items()})
    return training_hint.overfitting_hint(Path(folder), settings, characters, history)


@pytest.mark.parametrize(
    "losses",
    [
        [(2.0, 2.1)],
        [(2.0, 2.4), (1.9, 2.3)],  # a large gap, but the validation loss still falls
        [(2.0, 2.1), (1.8, 1.9)],
        [(2.0, 2.1), (1.7, 2.0), (1.6, 2.019)],
    ],
)
def test_while_the_validation_loss_falls_there_is_no_hint(losses: list[tuple[float, float]]) -> None:
    assert hint(history=[row(*pair) for pair in losses], model__dropout=0.0) == ""


def test_the_hint_names_what_it_was_drawn_from() -> None:
    assert hint().startswith(
        "The model over-fits: the validation loss rose from 2.000 to 2.200 nats per token. The run keeps"
    )


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({"model__dropout": 0.0}, "--model.dropout 0.25"),
        ({"model__dropout": 0.25}, "--model.members 2"),
        ({"model__dropout": 0.25, "model__members": 2}, ""),  # more dropout made it worse
        ({"model__dropout": 0.25, "training__sampled_softmax": 50}, ""),  # which several members cannot have
        (
            {"tokenizer__type": "bpe", "model__dropout": 0.4, "model__activation_regularization": 0.0,
             "model__embedding_dropout": 0.0},
            "--model.activation_regularization 2 --model.embedding_dropout 0.1",
        ),
        ({"tokenizer__type": "word", "model__dropout": 0.0}, ""),
    ],
)  # fmt: skip
def test_the_hint_proposes_only_what_a_benchmark_measured(values: dict[str, Any], options: str) -> None:
    text = hint(**values)
    command = f"keras-lstmgen train runs/x/recipe.toml --runs ./runs --name x {options}"
    assert text.endswith(f" {command}" if options else "with the lowest validation loss.")
    for characters in (100_000, 2_000_000):
        assert hint(characters, **values).endswith("with the lowest validation loss.")


def rendered(width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The progress line of a training, a third of an hour through."""
    monkeypatch.setattr(
        console, "out", Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    )
    screen = TrainingScreen(lambda: 0.25, 12_345 / 50, {"train": 1.0, "validation": 1.0}, str)
    screen.on_epoch_begin(11)
    for batch in range(3):
        screen.on_train_batch_end(batch, {"loss": 1.5})
    screen.bar.tasks[0].start_time = screen.bar.get_time() - 754
    console.out.print(screen.bar.get_renderable())
    line, *others = console.out.file.getvalue().rstrip("\n").split("\n")  # type: ignore[attr-defined]
    assert not others
    assert len(line) <= width
    return str(line)


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (60, []),
        (80, ["nats/token"]),
        (100, ["nats/token", "tokens/s"]),
        (120, ["nats/token", "tokens/s", "bits/character"]),
        (140, ["nats/token", "tokens/s", "bits/character", "perplexity"]),
    ],
)
def test_a_narrow_terminal_loses_figures_before_percentage_and_times(
    width: int, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = rendered(width, monkeypatch)
    assert re.match(r"epoch 12 .* 25 % 0:12:34 left (\d:\d\d:\d\d|-:--:--)", line)
    units = ["nats/token", "tokens/s", "bits/character", "perplexity"]
    assert [unit for unit in units if unit in line] == shown
    assert "…" not in line


def test_a_loss_is_shown_in_three_units() -> None:
    bits = 1.5 * 0.5 / math.log(2)
    assert loss_figures(1.5, 0.5) == [
        "1.500 nats/token",
        f"{bits:.2f} bits/character",
        f"perplexity {math.exp(1.5):.2f}",
    ]
    assert loss_figures(1e9, 1.0)[2].startswith("perplexity ")


def test_markup_in_texts_and_names_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("a table", ("[b]column", "value"), [("[red]x[/red]", "[/]"), ("y", 2)])
    console.next_command("keras-lstmgen", "info", Path("my [bold]runs/a b"))
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert "[/]" in out
    words = shlex.split(out.splitlines()[-1].removeprefix("next: "))
    assert words == ["keras-lstmgen", "info", "my [bold]runs/a b"]


def test_a_table_puts_words_left_and_numbers_right(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("sizes", ("what", "bytes"), [("a", "1"), ("long name", "1,000")])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "  a               1" in lines
    assert "  long name   1,000" in lines


def test_a_table_has_no_empty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("artifacts", ("format", "loss", "size"), [("ONNX", "", "1 MB"), ("TFLite", "", "2 MB")])
    assert "loss" not in (out := capsys.readouterr().out)
    assert ["ONNX", "1", "MB"] in [line.split() for line in out.splitlines()]
    console.table("artifacts", ("format", "loss", "size"), [("ONNX", "", "1 MB"), ("int8", "+0.1", "2 MB")])
    assert "loss" in capsys.readouterr().out


def test_in_a_table_a_chinese_character_is_two_columns_wide_and_never_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "out", Console(soft_wrap=True, width=33))
    names = ["红楼梦", "a", "床前明月光疑是地上霜x举头望明月低头思故乡"]
    console.table("运行", ("运行", "每词元"), [(name, f"{1.5:.3f}") for name in names])
    lines = capsys.readouterr().out.splitlines()[1:]
    widths = {sum(1 + (unicodedata.east_asian_width(sign) in "WF") for sign in line) for line in lines}
    assert len(widths) == 1
    assert widths <= set(range(25, 34))
    assert "".join(line[:-10].strip() for line in lines[3:]) == "".join(names)


def test_an_epoch_is_told_with_its_speed_its_losses_and_a_sample(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten batches of 50 tokens, one a second; what follows the last batch does not count."""
    now = [100.0]
    monkeypatch.setattr(training_screen, "time", SimpleNamespace(monotonic=lambda: now[0]))
    ratios: dict[Split, float] = {"train": 0.25, "validation": 0.5}
    screen = TrainingScreen(lambda: 0.5, 50, ratios, lambda: " the [red]sample ")
    screen.set_model(keras.Sequential())
    screen.on_epoch_begin(2)
    for batch in range(10):
        now[0] += 1
        screen.on_train_batch_end(batch, {"loss": 2.0})
    now[0] += 100
    screen.on_epoch_end(2, {"loss": 1.75, "val_loss": 1.5})
    out = capsys.readouterr().out
    assert f"epoch 3  50 tokens/s  train 1.750  validation {'  '.join(loss_figures(1.5, 0.5))}\n" in out
    assert "the [red]sample\n" in out
    task = screen.bar.tasks[0]
    assert (task.completed, task.description) == (0.5, "epoch 3")
    nats, bits, perplexity = loss_figures(2.0, 0.25)
    assert task.fields["figures"] == (nats, "50 tokens/s", bits, perplexity)
