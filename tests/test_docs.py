"""What the documents say to type can be typed, and what they say is there is there."""

import re
import shlex
from pathlib import Path

import pytest

from keras_lstmgen.cli.parser import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("[RCS]*.md"), *ROOT.glob("[a-z]*/README.md"), *ROOT.glob("docs/*.md")])


def words_of(page: Path) -> str:
    """A page without its blocks of code: what a model wrote there names and links nothing."""
    return re.sub(r"^(`{3,})\w*\n.*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The lines of code blocks that call us."""
    text = words_of(page)
    return [line.split("   #")[0].strip() for line in re.findall(r"^    (keras-lstmgen .*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_understood(page: Path) -> None:
    for command in commands(page):
        build_parser().parse_args(shlex.split(command)[1:])


def test_the_readme_shows_every_verb() -> None:
    shown = {shlex.split(command)[1] for command in commands(ROOT / "README.md")}
    assert shown == {"prepare", "train", "generate", "chat", "evaluate", "inspect", "export", "info"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", words_of(page)):
        assert (page.parent / target).exists(), target


def named(page: Path) -> list[tuple[str, Path]]:
    """The functions and classes that a page links with their files."""
    links = re.findall(r"\[`(\w+)`\]\(([^)#:]+\.(?:py|c|h))\)", words_of(page))
    return [(name, page.parent / target) for name, target in links]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_function_that_a_page_names_is_defined_in_the_file_that_it_links(page: Path) -> None:
    for name, path in named(page):
        definition = rf"(def|class) {name}\b" if path.suffix == ".py" else rf"^[\w *]*\b(NAME\({name}\)|{name})\("
        assert re.search(definition, path.read_text(encoding="utf-8"), re.MULTILINE), (name, path)


def test_the_page_on_the_lstm_leads_to_its_code_and_shows_its_pictures() -> None:
    page = ROOT / "docs/lstm.md"
    assert len(named(page)) >= 25
    shown = re.findall(r"!\[[^\]]+\]\((pictures/\w+\.png)\)", page.read_text(encoding="utf-8"))
    assert {Path(name).name for name in shown} == {path.name for path in (ROOT / "docs/pictures").iterdir()}
    assert all((ROOT / "docs" / name).stat().st_size < 150_000 for name in shown)


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"\bmake ([a-z]+)\b", words_of(page))) <= targets | {"sure"}, page


def test_the_tree_of_the_readme_is_the_tree() -> None:
    block = next(block for block in re.findall(r"```\n(.*?)```", README, re.DOTALL) if "keras_lstmgen/" in block)
    for name in re.findall(r"^ *([\w./]+)  ", block, re.MULTILINE):
        assert any((folder / name).exists() for folder in (ROOT, ROOT / "keras_lstmgen")), name


def test_the_readme_reads_at_one_sitting() -> None:
    assert 80 <= len(README.splitlines()) <= 150
