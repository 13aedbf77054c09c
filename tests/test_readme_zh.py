"""The Chinese README says what the English one says: the same headings, commands, figures, links and names."""

import re
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
BLOCK = re.compile(r"^```\n(.*?)^```$|((?:^ {4}[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
UNITS = {
    "MB": "MB", "%": "%", "minutes": "分钟", "nats per character": "nats/字符", "characters/s": "字符/秒",
    "bits per character": "bits/字符", "characters": "个字符", "tokens": "个词元", "prompts": "条提示词",
}  # fmt: skip
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?"


def alike(what: str, english: list[str], chinese: list[str]) -> None:
    """Both have the same, in the same order."""
    for one, other in zip_longest(english, chinese):
        assert one == other, f"{what}: {one!r} in README.md is {other!r} in README.zh-CN.md"


def as_many(what: str, english: list[str], chinese: list[str]) -> None:
    """Both have the same, in any order, which is another in another language."""
    one, other = Counter(english), Counter(chinese)
    lacks, more = list((one - other).elements()), list((other - one).elements())
    assert one == other, f"{what}: README.zh-CN.md lacks {lacks} of README.md and has {more} instead"


def headings(page: str) -> list[str]:
    """``## words``, out of all but the blocks."""
    return re.findall(r"^#+ .*", BLOCK.sub("", page), re.MULTILINE)


def commands(page: str) -> list[str]:
    """The lines of the blocks without their comments; of the tree, the names."""
    lines = []
    for fenced, indented in BLOCK.findall(page):
        lines += [re.split(" +# ", line)[0] for line in indented.splitlines()]
        lines += [" ".join(re.findall(r"^ *[\w./]+|\w+\.py", line, re.ASCII)) for line in fenced.splitlines()]
    return lines


def sections(page: str) -> list[str]:
    """What stands under each heading in prose and tables; not the line that leads to the other language."""
    prose = re.sub(r"^>.*\n|^\[.*\]\(README.*\n", "", BLOCK.sub("", page), flags=re.MULTILINE)
    return re.split(r"^#+ .*\n", prose, flags=re.MULTILINE)[1:]


def names(text: str) -> list[str]:
    """The targets of links, and what stands in backticks."""
    return [name for pair in re.findall(r"\]\((.*?)\)|`(.*?)`", text) for name in pair if name]


def figures(text: str) -> list[str]:
    """The numbers, with the English of the units behind them: ``1.7 minutes``."""
    text = re.sub(r"\]\(.*?\)|`.*?`", "", text)
    english = {word: unit for pair in UNITS.items() for word, unit in zip(pair, pair[:1] * 2, strict=True)}
    units = "|".join(map(re.escape, sorted(english, key=len, reverse=True)))
    found = re.findall(rf"({NUMBER})\s*({units})?", text)
    return [f"{number} {english.get(unit, '')}".rstrip() for number, unit in found]


def rows(text: str) -> list[str]:
    """The rows of the tables."""
    return re.findall(r"^\|.*", text, re.MULTILINE)


def compare(english: str, chinese: str) -> None:
    """Fail where the two pages differ, and say in what."""
    levels = [[re.sub(r"[^#]*$", "", heading) for heading in headings(page)] for page in (english, chinese)]
    assert levels[0] == levels[1], f"headings: {headings(english)} are {headings(chinese)}"
    alike("a line of a block", commands(english), commands(chinese))
    alike("what the model wrote", *(re.findall(r"^>.*", page, re.MULTILINE) for page in (english, chinese)))
    for heading, one, other in zip(headings(english), sections(english), sections(chinese), strict=True):
        for what, found in (("figures", figures), ("links and names", names)):
            in_rows = [[f"{sorted(found(row))}" for row in rows(text)] for text in (one, other)]
            alike(f"{what} of a row under {heading!r}", *in_rows)
            as_many(f"{what} under {heading!r}", found(one), found(other))


def test_the_chinese_readme_has_the_headings_commands_figures_links_and_names_of_the_english_one() -> None:
    compare(ENGLISH, CHINESE)


def test_each_leads_to_the_other_at_its_top() -> None:
    assert ENGLISH.splitlines()[1].startswith("[简体中文](README.zh-CN.md)")
    assert CHINESE.splitlines()[1].startswith("[English](README.md)")


def test_every_heading_paragraph_head_of_a_table_and_comment_is_in_chinese() -> None:
    """But for the title, which is a name."""
    han = re.compile("[\u4e00-\u9fff]")
    prose = [line for line in "".join(sections(CHINESE)).splitlines() if line and not line.startswith("|")]
    heads = re.findall(r"^\|[^-\d].*(?=\n\|---)", CHINESE, re.MULTILINE)
    comments = re.findall(r"^ {4}.* # (.*)", CHINESE, re.MULTILINE)
    assert len(prose) > 10
    assert len(heads) == 5
    assert [line for line in [*headings(CHINESE)[1:], *prose, *heads, *comments] if not han.search(line)] == []


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        ("## 目录结构", "### 目录结构", "headings: .*'## The tree'.*'### 目录结构'"),
        ("--top-p 0.95", "--top-p 0.9", "a line of a block: .*--top-p 0.95 .*--top-p 0.9 "),
        ("keras-lstmgen info ", "keras-lstmgen infos", "'    keras-lstmgen infos' in README.zh-CN.md"),
        ("  models/ ", "  model/ ", "'  models/.*' in README.md is '  model/.*'"),
        ("detimed", "detained", "what the model wrote: .*detimed.*detained"),
        ("训练了 1.7 分钟", "训练了 1.8 分钟", r"lacks \['1.7 minutes'\].* has \['1.8 minutes'\]"),
        ("30 分钟", "30 秒", "'30 minutes'.*'30'"),
        ("2,977", "2,978", "figures of a row under '## Two commands': .*2,977.*2,978"),
        (r"(\| \[shakespeare\].*\n)(.*\n)", r"\2\1", "figures of a row .*1.432.*1.367"),
        (r"docs/faults\.md", "docs/fault.md", r"links and names under .*lacks \['docs/faults.md'\]"),
        (r"`\.gz`", "`.xz`", r"lacks \['.gz'\] of README.md and has \['.xz'\] instead"),
    ],
)
def test_a_difference_is_named(here: str, there: str, said: str) -> None:
    changed = re.sub(here, there, CHINESE)
    assert changed != CHINESE
    with pytest.raises(AssertionError, match=said):
        compare(ENGLISH, changed)
