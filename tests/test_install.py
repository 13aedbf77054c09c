"""What `make install` and `make test-beam` install: the versions of their constraints, which setup.cfg allows."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PLACES = {"EXTRAS": "constraints.txt", "BEAM_EXTRAS": "constraints-beam.txt"}
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def pins(file: str) -> list[str]:
    """The lines of a file of constraints."""
    return [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]


def versions(file: str) -> dict[str, str]:
    """The same, by the name of the package."""
    return {named(name): version for name, version in (pin.split("==") for pin in pins(file))}


def named(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def extras(variable: str) -> list[str]:
    """The extras that a variable of the Makefile names."""
    found = re.search(rf"^{variable} := (.*)$", MAKEFILE, re.MULTILINE)
    assert found
    return found[1].split(",")


def requirements(names: list[str]) -> list[Requirement]:
    """Of the package and of these extras."""
    parts = [SETUP["options"]["install_requires"], *(SETUP["options.extras_require"][name] for name in names)]
    return [Requirement(line) for part in parts for line in part.split("\n") if line and not line.startswith("#")]


@pytest.mark.parametrize(("variable", "file"), PLACES.items())
def test_every_requirement_has_a_version_in_the_constraints_that_its_bounds_allow(variable: str, file: str) -> None:
    assert len(versions(file)) == len(pins(file))
    assert len(requirements(extras(variable))) > 13
    for requirement in requirements(extras(variable)):
        assert requirement.specifier.contains(versions(file)[named(requirement.name)]), requirement


def test_every_requirement_of_whatever_extra_has_an_upper_bound() -> None:
    every = requirements(list(SETUP["options.extras_require"]))
    assert {"torch", "apache-beam"} <= {requirement.name for requirement in every}
    for requirement in every:
        assert any(part.operator == "<" for part in requirement.specifier), requirement


def test_tensorflow_and_its_text_operators_have_one_minor_version() -> None:
    minors = {name: version.split(".")[:2] for name, version in versions("constraints.txt").items()}
    assert minors["tensorflow"] == minors["tensorflow-text"] == minors["tensorflow-serving-api"]


def test_beam_s_constraints_are_the_others_but_for_what_beam_wants_older() -> None:
    others = versions("constraints.txt")
    apart = {name for name, version in versions("constraints-beam.txt").items() if others.get(name, version) != version}
    assert apart == {"protobuf", "pillow", "python-dateutil"}


def test_the_constraints_are_names_and_versions_and_all_but_the_newest_environment_takes_them() -> None:
    for pin in (pin for file in PLACES.values() for pin in pins(file)):
        assert re.fullmatch(r"[\w.-]+==[\w.]+", pin), pin
    installs = re.findall(r"^\t(\S+)/pip install (.*--editable .*)$", MAKEFILE, re.MULTILINE)
    taken = {place: re.findall(r"-c (\S+)", words) for place, words in installs}
    beam, ours = ["constraints-beam.txt"], ["constraints.txt"]
    assert taken == {"$(BIN)": ours, "$(BEAM)/bin": beam, ".venv-newest/bin": []}
    assert len(installs) == 4
