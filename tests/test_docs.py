"""What the documents say to type can be typed, and what they say is there is there."""

import configparser
import importlib.util
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from keras_lstmgen.cli.parser import build_parser

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_lstmgen"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    [*ROOT.glob("[RCS]*.md"), *ROOT.glob("[a-z]*/README.md"), *ROOT.glob("export/*/*.md"), *ROOT.glob("docs/*.md")]
)
RECIPES = sorted([*ROOT.glob("pipelines/*.toml"), *ROOT.glob("benchmarks/*.toml")])
FENCE = re.compile(r"^( *)(`{3,})(\w*)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("keras-lstmgen", "make", "python", "pip")  # whose commands are checked
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

BENCHMARKS = {f"bench-{path.stem}" for path in ROOT.glob("benchmarks/*.py")}


def names_of(pages: list[Path]) -> dict[str, Path]:
    return {str(page.relative_to(ROOT)): page for page in pages}


def words_of(page: Path) -> str:
    """A page without its blocks of code: what a model wrote there names and links nothing."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def code_of(page: Path) -> list[str]:
    """The pieces of code of a page: blocks of shell commands, indented blocks, and what stands in backticks."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".toml":
        return re.findall(r"^#   +(.*)$", text, re.MULTILINE)
    shell = [block for _, _, language, block in FENCE.findall(text) if language in ("sh", "bash")]
    indented = re.findall(r"(?:^    .*\n)+", words_of(page), re.MULTILINE)
    return [*shell, *indented, *(re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", words_of(page)))]


def program(word: str) -> str:
    """The name of a program that may be one of an environment: ``.venv/bin/python``."""
    return re.sub(r"^(?:\$ )?(?:\S*/bin/)?", "", word)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of ``PROGRAMS``, wherever a page has it; a quoted word may have several lines."""
    for code in code_of(page):
        pending = ""
        for line in code.splitlines():
            pending = f"{pending}\n{line}" if pending else line.strip()
            if program(pending).split(" ")[0] not in PROGRAMS:
                pending = re.sub(r"^.*?&& ", "", pending) if "&& " in pending else ""
            try:
                words = shlex.split(program(pending), comments=True)
            except ValueError:  # a quotation goes on in the next line
                continue
            yield from simple(words)
            pending = ""


def simple(words: list[str]) -> Iterator[list[str]]:
    """The commands of a line, each up to what the shell takes for itself."""
    while words:
        command = list(takewhile(lambda word: word not in ("&&", "|", ";", ">"), words))
        if len(command) > 1:
            yield command
        words = words[len(command) + 1 :]


def check(command: list[str]) -> None:
    """Fail if a command cannot be typed. Nothing is run."""
    name, *words = command
    if program(name) == "keras-lstmgen":
        check_ours(words)
    elif name == "make":
        assert {word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)} <= {*TARGETS, *BENCHMARKS, "all"}, (
            command
        )
    elif program(name) == "python" and words[0] == "-m":
        assert importlib.util.find_spec(words[1]), command
    elif program(name) == "python" and words[0].endswith(".py"):
        assert (ROOT / words[0]).is_file(), command
    elif program(name) == "pip":
        extras = set(re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*?)\]", " ".join(words)))))
        assert extras <= {*setup()["options.extras_require"], "and-cuda"}, command


def check_ours(words: list[str]) -> None:
    """Parse the words of a command as the command line does; of a verb alone, that there is one."""
    if words[1:] in ([], ["--help"]):
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args([words[0], "--help"])
        assert ended.value.code == 0
    else:
        build_parser().parse_args(words)


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.mark.parametrize("page", names_of([*PAGES, *RECIPES]))
def test_every_command_of_a_page_can_be_typed(page: str) -> None:
    for command in commands(ROOT / page):
        check(command)


@pytest.mark.parametrize(
    "text",
    [
        "    keras-lstmgen train my_book.txt --model.size 3\n",
        "See `keras-lstmgen\ngenerates my_book`.\n",
        "```sh\nkeras-lstmgen info && keras-lstmgen generate my_book --prompt 'two\nlines' --top 3\n```\n",
        "    $ make demos\n",
        "Type `.venv/bin/python -m benchmarks.trainings --help`.\n",
        "    source .venv/bin/activate && python -m keras_lstmgen.trains\n",
        "    python export/onnx/generates.py model.onnx\n",
        "    pip install '.[exports]'\n",
    ],
)
def test_a_command_that_cannot_be_typed_is_found(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    assert any(_fails(command) for command in commands(page))


def _fails(command: list[str]) -> bool:
    try:
        check(command)
    except (AssertionError, Exception):
        return True
    return False


def test_the_readme_shows_every_verb() -> None:
    shown = {command[1] for command in commands(ROOT / "README.md") if command[0] == "keras-lstmgen"}
    assert shown >= {"prepare", "train", "generate", "chat", "evaluate", "inspect", "export", "clients", "info"}


@pytest.mark.parametrize("page", names_of(PAGES))
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", words_of(ROOT / page)):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", names_of(PAGES))
def test_every_link_to_a_heading_of_a_page_leads_to_one(page: str) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", words_of(ROOT / page)):
        there = (ROOT / page).parent / target if target else ROOT / page
        found = re.findall(r"^#+ (.*)", words_of(there), re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in found}, heading


@pytest.mark.parametrize("page", names_of([*PAGES, *RECIPES]))
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    names = re.findall(
        r"\b(?:keras_lstmgen|tests|docs|export|benchmarks|pipelines)/[\w./]+\.(?:py|md|toml|c|h|json|yaml)\b", text
    )
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_module_that_a_page_on_the_packages_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    packages = "|".join(packages_of_the_package())
    named = set(re.findall(rf"(?<![\w./])((?:{packages})/\w+)", text))
    assert len(named) >= 3
    assert [name for name in sorted(named) if not module(name)] == []


def module(name: str) -> list[Path]:
    """The file or the folder of a module that is named without its ending."""
    return [*PACKAGE.glob(f"{name}"), *PACKAGE.glob(f"{name}.*")]


def packages_of_the_package() -> list[str]:
    return sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__")


def named(page: Path) -> list[tuple[str, Path]]:
    """The functions and classes that a page links with their files."""
    links = re.findall(r"\[`(\w+)`\]\(([^)#:]+\.(?:py|c|h))\)", words_of(page))
    return [(name, page.parent / target) for name, target in links]


@pytest.mark.parametrize("page", names_of(PAGES))
def test_every_function_that_a_page_names_is_defined_in_the_file_that_it_links(page: str) -> None:
    for name, path in named(ROOT / page):
        definition = rf"(def|class) {name}\b" if path.suffix == ".py" else rf"^[\w *]*\b(NAME\({name}\)|{name})\("
        assert re.search(definition, path.read_text(encoding="utf-8"), re.MULTILINE), (name, path)


def test_the_page_on_the_lstm_leads_to_its_code_and_shows_its_pictures() -> None:
    page = ROOT / "docs/lstm.md"
    assert len(named(page)) >= 25
    shown = re.findall(r"!\[[^\]]+\]\((pictures/\w+\.png)\)", page.read_text(encoding="utf-8"))
    assert {Path(name).name for name in shown} == {path.name for path in (ROOT / "docs/pictures").iterdir()}
    assert all((ROOT / "docs" / name).stat().st_size < 150_000 for name in shown)


def test_every_make_target_that_is_named_is_there() -> None:
    for page in PAGES:
        assert set(re.findall(r"\bmake ([a-z]+)\b", words_of(page))) <= TARGETS | {"sure"}, page


def tree(page: str) -> list[str]:
    """The names in the tree of a README, one a line."""
    (block,) = [block for *_, block in FENCE.findall(page) if block.startswith("keras_lstmgen/")]
    return re.findall(r"^ *[\w./]+", block, re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_tree_of_the_readme_is_the_tree(page: str) -> None:
    lines = tree((ROOT / page).read_text(encoding="utf-8"))
    below = [line.strip().rstrip("/") for line in lines if line.startswith("  ") and line.endswith("/")]
    assert below == sorted(below, key=below.index)
    assert sorted(below) == packages_of_the_package()
    for line in lines:
        assert ((PACKAGE if line.startswith(" ") else ROOT) / line.strip()).exists(), line


def test_the_readme_reads_at_one_sitting() -> None:
    assert 80 <= len(README.splitlines()) <= 150
