"""What `make install` installs: the versions of constraints.txt, which are some that setup.cfg allows."""

import configparser
import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def named(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[Requirement]:
    """Of the package and of the extras that `make install` names."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = re.search(r"^EXTRAS := (.*)$", MAKEFILE, re.MULTILINE)
    assert extras
    parts = [setup["options"]["install_requires"]]
    parts += [setup["options.extras_require"][name] for name in extras[1].split(",")]
    return [Requirement(line) for part in parts for line in part.split("\n") if line and not line.startswith("#")]


def test_every_requirement_has_a_version_in_the_constraints_that_its_bounds_allow() -> None:
    pins = {named(name): version for name, version in (pin.split("==") for pin in PINS)}
    assert len(pins) == len(PINS)
    assert len(requirements()) > 20
    for requirement in requirements():
        assert requirement.specifier.contains(pins[named(requirement.name)]), requirement


def test_every_requirement_has_an_upper_bound() -> None:
    for requirement in requirements():
        assert any(part.operator == "<" for part in requirement.specifier), requirement


def test_tensorflow_and_its_text_operators_have_one_minor_version() -> None:
    minors = {pin.split("==")[0]: pin.split("==")[1].split(".")[:2] for pin in PINS}
    assert minors["tensorflow"] == minors["tensorflow-text"] == minors["tensorflow-serving-api"]


def test_the_constraints_are_names_and_versions_and_all_but_the_newest_environment_takes_them() -> None:
    for pin in PINS:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", pin), pin
    installs = re.findall(r"^\t(\S+/pip install .*)$", MAKEFILE, re.MULTILINE)
    ours = [line for line in installs if "--editable" in line]
    assert [line.startswith(".venv-newest/") for line in ours] == ["-c constraints.txt" not in line for line in ours]
    assert len(ours) == 3
