"""The gallery shows what the commands in it write, and no text of a model can break its page."""

import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the benchmarks are no package that is installed
from benchmarks import gallery
from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.models import run_directory
from keras_lstmgen.training import trainer

pytestmark = pytest.mark.slow

TINY = {
    "model.embedding_size": 5, "model.units": 14, "model.layers": 1, "training.batch_size": 4, "training.epochs": 2,
    "training.window": 60, "corpus.validation_fraction": 0.3,
}  # fmt: skip
BLOCK = re.compile(r"^(`{3,})(\w+)\n(.*?)\n\1$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of runs; what is written is short."""
    monkeypatch.setattr(gallery, "TOKENS", 17)
    return tmp_path / "runs"


def blocks(page: Path) -> list[tuple[str, str]]:
    """The blocks of code of a page: language and text."""
    return [(found[2], found[3]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def written(capsys: pytest.CaptureFixture[str], runs: Path, command: str) -> str:
    """What a command of the page writes."""
    capsys.readouterr()
    assert command_line.main([*shlex.split(command)[1:], "--runs", str(runs)]) == 0
    return capsys.readouterr().out


def test_each_recipe_has_its_reason_its_loss_and_what_its_command_writes(
    trained: Path, shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, shown / "quickstart")
    shutil.copytree(trained, shown / "of no recipe")
    assert gallery.main(["--runs", str(shown), "--output", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page.count("\n## ") == 1
    (link,) = re.findall(r"^## \[quickstart\]\((.*)\)$", page, re.MULTILINE)
    assert (tmp_path / link).resolve() == gallery.PIPELINES / "quickstart.toml"
    assert "\nQuickstart and default recipe: no download, about two minutes of training on two cores.\n" in page
    nats = run_directory.load_metadata(trained).metrics["validation"]["nats_per_token"]
    assert f"\nOn held-out text: {nats:.3f} nats " in page
    (_, command), *texts = blocks(tmp_path / "page.md")
    assert re.findall("^Seed (.):$", page, re.MULTILINE) == ["0", "1", "2"]
    assert written(capsys, shown, command) == "\n\n".join(text for _, text in texts) + "\n"
    assert "--temperature 0.8 --seed 0 --n 3" in command


def test_a_run_on_pairs_answers_the_first_sources_that_it_validates_on_as_its_recipe_measures(
    shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"it's {number}\tso\twell {number}\tbye" for number in range(40)]
    (tmp_path / "talk.tsv").write_text("\n".join(lines), encoding="utf-8")
    asked = {"evaluate.measures": ["bleu"], "evaluate.beams": 2, "evaluate.length_penalty": 0.5}
    values = TINY | asked | {"corpus.source": [str(tmp_path / "talk.tsv")], "corpus.documents": "pairs"}
    folder = trainer.train(recipe.override(recipe.Recipe(), values), shown, "quickstart").folder
    assert gallery.main([str(folder), "--output", str(tmp_path / "page.md")]) == 0
    found = blocks(tmp_path / "page.md")
    assert [language for language, _ in found] == ["sh", "text"] * 3
    commands = [text for language, text in found if language == "sh"]
    assert len({shlex.split(command)[-1] for command in commands}) == 3
    assert all(re.fullmatch(r"it's (\d+)\nso\nwell \1\n", shlex.split(command)[-1]) for command in commands)
    assert all("--beams 2 --length-penalty 0.5" in command for command in commands)
    assert "\nOn held-out text: " in (tmp_path / "page.md").read_text(encoding="utf-8")
    for command, (_, text) in zip(commands, found[1::2], strict=True):
        assert written(capsys, shown, command) == f"{text}\n"


def test_each_file_is_asked_from_and_text_that_was_learned_is_not_called_held_out(
    shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, line in {"english": "hello {}\twell", "chinese": "你好{}\t好"}.items():
        (tmp_path / name).write_text("\n".join(line.format(number) for number in range(5)), encoding="utf-8")
    both = [str(tmp_path / name) for name in ("english", "chinese")]
    values = TINY | {"corpus.source": both, "corpus.validation": both, "corpus.documents": "pairs"}
    folder = trainer.train(recipe.override(recipe.Recipe(), values), shown, "quickstart").folder
    assert gallery.main([str(folder), "--output", str(tmp_path / "page.md")]) == 0
    found = blocks(tmp_path / "page.md")
    commands = [text for language, text in found if language == "sh"]
    prompts = [shlex.split(command)[-1] for command in commands]
    assert prompts == [f"hello {number}" for number in range(3)] + [f"你好{number}" for number in range(3)]
    assert "\nOn its training text: " in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert written(capsys, shown, commands[-1]) == f"{found[-1][1]}\n"


def test_a_run_on_labels_writes_of_each_kind(shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("glad", "sad"):
        (tmp_path / kind).write_text("\n".join(f"{kind} {number}" for number in range(40)), encoding="utf-8")
    values = TINY | {
        "corpus.source": [str(tmp_path / "glad"), str(tmp_path / "sad")], "corpus.labels": ["glad", "sad"],
        "corpus.documents": "lines", "training.window": 20,
    }  # fmt: skip
    folder = trainer.train(recipe.override(recipe.Recipe(), values), shown, "quickstart").folder
    assert gallery.main([str(folder), "--output", str(tmp_path / "page.md")]) == 0
    found = blocks(tmp_path / "page.md")
    assert [language for language, _ in found] == ["sh", "text", "text", "text"] * 2
    for (_, command), *texts in (found[:4], found[4:]):
        assert written(capsys, shown, command) == "\n\n".join(text for _, text in texts) + "\n"
    assert [shlex.split(command)[-1] for command in (found[0][1], found[4][1])] == ["glad", "sad"]


@given(st.text("`~a\n ", max_size=40))
def test_no_text_breaks_its_fence(text: str) -> None:
    around = f"before\n\n{gallery.fence(text)}\n\nafter"
    assert [(found[2], found[3]) for found in BLOCK.finditer(around)] == [("text", text)]


@given(st.dictionaries(st.text("abc_", min_size=1, max_size=3), st.text("`#[a]( \n", max_size=30)))
def test_the_sections_of_a_page_are_found_whatever_stands_in_them(texts: dict[str, str]) -> None:
    written = {name: f"## [{name}](x)\n\n{gallery.fence(text)}" for name, text in texts.items()}
    with tempfile.NamedTemporaryFile("w", suffix=".md", encoding="utf-8", newline="") as page:
        page.write("\n\n".join([gallery.HEAD, *written.values()]) + "\n")
        page.flush()
        assert gallery.sections(Path(page.name)) == written


def test_a_run_that_is_named_leaves_the_sections_of_others(trained: Path, shown: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    other = "## [news](x)\n\n```text\n## [quickstart](y)\n```"
    page.write_text(f"before\n\n{other}\n\n## [quickstart](old)\n", encoding="utf-8")
    shutil.copytree(trained, shown / "quickstart")
    assert gallery.main([str(shown / "quickstart"), "--output", str(page)]) == 0
    assert list(gallery.sections(page)) == ["news", "quickstart"]
    assert gallery.sections(page)["news"] == other
    assert "(old)" not in page.read_text(encoding="utf-8")


def test_what_cannot_be_shown_is_one_line_and_the_page_stays(
    trained: Path, shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before")
    shutil.copytree(trained, shown / "strange")
    for words, said in (
        ([str(shown / "strange")], f"{shown}/strange: does not bear the name of a recipe"),
        (["--runs", str(shown)], f"{shown}: holds no run that bears the name of a recipe"),
    ):
        assert gallery.main([*words, "--output", str(page)]) == 2
        assert capsys.readouterr().err.startswith(f"benchmarks.gallery: {said}")
    assert page.read_text() == "before"
