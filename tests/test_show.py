"""What people see is what was measured, and nothing in a text or a name is taken for markup."""

import math
import shlex
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
from rich.console import Console

from keras_lstmgen.cli import console
from keras_lstmgen.data.splits import Split


def row(loss: float, val_loss: float) -> dict[str, float]:
    return {"windows": 1, "seconds": 60.0, "loss": loss, "val_loss": val_loss}


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([(2.0, 2.1)], "One epoch is too few to tell"),
        (
            [(2.0, 2.1), (1.8, 2.0), (1.5, 2.2)],
            "It over-fits (1,000 parameters for 2,000 characters of training text; ",
        ),
        ([(2.0, 2.4), (1.9, 2.3)], "It begins to over-fit"),
        ([(2.0, 2.1), (1.8, 1.9)], "It still learns"),
        ([(2.0, 2.1), (2.0, 2.01), (2.0, 2.0)], "It under-fits"),
        ([(2.0, 2.1), (1.91, 2.01), (1.9, 2.0)], "It fits well"),
    ],
)
def test_the_hint_follows_from_the_losses(losses: list[tuple[float, float]], said: str) -> None:
    assert console.advice(1000, 2000, [row(*pair) for pair in losses]).startswith(said)


def test_the_hint_names_what_it_was_drawn_from() -> None:
    text = console.advice(1000, 2000, [row(2.0, 2.1), row(1.8, 2.0), row(1.5, 2.2)])
    assert "validation rose from 2.000 to 2.200" in text
    assert console.advice(1, 2, [row(2.0, 2.1), row(1.8, 1.9)]).count("0.200 nats off") == 1


def test_a_loss_is_shown_in_three_units() -> None:
    bits = 1.5 * 0.5 / math.log(2)
    assert console.figures(1.5, 0.5) == f"1.500 nats/token  {bits:.2f} bits/character  perplexity {math.exp(1.5):.2f}"
    assert "perplexity" in console.figures(1e9, 1.0)


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
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now[0]))
    ratios: dict[Split, float] = {"train": 0.25, "validation": 0.5}
    screen = console.Screen(lambda: 0.5, 50, ratios, lambda: " the [red]sample ")
    screen.set_model(keras.Sequential())
    screen.on_epoch_begin(2)
    for batch in range(10):
        now[0] += 1
        screen.on_train_batch_end(batch, {"loss": 2.0})
    now[0] += 100
    screen.on_epoch_end(2, {"loss": 1.75, "val_loss": 1.5})
    out = capsys.readouterr().out
    assert f"epoch 3  50 tokens/s  train 1.750  validation {console.figures(1.5, 0.5)}\n" in out
    assert "the [red]sample\n" in out
    task = screen.bar.tasks[0]
    assert (task.completed, task.description) == (0.5, "epoch 3")
    assert task.fields["figures"] == f"50 tokens/s  {console.figures(2.0, 0.25)}"
