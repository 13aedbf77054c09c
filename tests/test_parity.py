"""The command that holds every runtime against Keras finds what is the same, and shows what is not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import page, parity
from keras_lstmgen.exporters import onnx
from keras_lstmgen.exporters.registry import Call
from keras_lstmgen.generation import sampling
from keras_lstmgen.models import run_directory
from tests import npm

pytestmark = pytest.mark.slow

TEXTS, TOKENS = 70, 9


def asked(folder: Path, results: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    words = [str(folder), "--texts", str(TEXTS), "--tokens", str(TOKENS), "--results", str(results)]
    status = parity.main([*words, *more])
    return status, json.loads((results / "parity.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("fixture", ["trained", "trained_lines"])
def test_every_runtime_writes_the_texts_of_keras(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    status, rows = asked(request.getfixturevalue(fixture), tmp_path, "--without-browser")
    assert status == 0
    *graphs, web = rows
    assert web["runtime"] != page.BROWSER
    assert "| in all of them at once | 70 of 70 |" in (tmp_path / "parity.md").read_text(encoding="utf-8")
    assert [row["runtime"] for row in graphs] == [*parity.FORMATS, parity.STRINGS]
    assert {(row["texts"], row["identical"]) for row in graphs} == {(TEXTS, TEXTS)}
    assert web["identical"] == web["texts"]


def test_the_first_texts_are_written_in_a_browser_too(
    trained: Path, browser_kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del browser_kit  # asked for, so that npm has brought a browser
    monkeypatch.setattr(parity, "IN_PAGE", 13)
    status, [*_, web] = asked(trained, tmp_path)
    assert (status, web["runtime"]) == (0, "web page, in Chromium")
    assert (web["texts"], web["identical"]) == (13, 13)


def test_without_a_browser_they_are_written_in_node_and_without_that_a_line_says_so(
    trained_lines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run_directory.load(trained_lines)
    prompts, cases = parity.drawn(model, 5)
    monkeypatch.setenv("PUPPETEER_EXECUTABLE_PATH", "/none")
    name, texts = npm.or_skip(lambda: page.texts(model, prompts, cases, TOKENS))
    assert name == "web page, in Node"
    assert texts == parity.in_keras(model, cases, TOKENS)
    assert "web page, in Chromium: the browser does not start: " in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/none")
    assert page.texts(model, prompts, cases, TOKENS) == (
        "web page, not run: --format web: node is not installed; install Node.js 20 or later",
        [],
    )


def test_a_text_that_differs_is_shown_with_the_step_and_the_distance_of_the_candidates(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(folder: Path) -> Call:
        """As if the noise of the fifth token were another."""
        right = open_artifact(folder)

        def call(graph: str, **inputs: Any) -> Any:
            shifted = inputs["noise"].copy()
            shifted[:, 4] = 1 - shifted[:, 4]
            return right(graph, **inputs | {"noise": shifted})

        return call

    open_artifact = onnx.open_artifact
    monkeypatch.setitem(onnx.EXPORTERS, "onnx", replace(onnx.EXPORTERS["onnx"], open_artifact=wrong))
    status, rows = asked(trained, tmp_path, "--without-browser")
    assert status == 1
    (bad,) = [row for row in rows if row["identical"] < row["texts"]]
    assert bad["runtime"] == "ONNX"
    assert len(bad["differences"]) == TEXTS - bad["identical"] > TEXTS // 2
    assert {one["at"] for one in bad["differences"]} == {4}
    model = run_directory.load(trained)
    prompts, cases = parity.drawn(model, TEXTS)
    assert len(set(prompts)) > TEXTS // 4
    for one in bad["differences"]:
        assert one["keras"] != one["other"]
        noise = float(sampling.noise([cases[one["case"]].seed], 1, 4)[0, 0])
        assert 0 <= one["noise"] <= abs(1 - 2 * noise) + 1e-6  # the mirrored number chose otherwise
    assert "Texts that differ" in capsys.readouterr().out
    assert np.isfinite([one["logits"] for one in bad["differences"]]).all()


def test_without_a_browser_the_exit_status_is_1_unless_it_is_left_out(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(_run: Any, _prompts: Any, _cases: Any, _tokens: Any, ways: list[str]) -> tuple[str, list[list[int]]]:
        return f"web page, not run: none of {len(ways)}", []

    monkeypatch.setattr(page, "texts", none)
    status, [*_, web] = asked(trained, tmp_path)
    assert (status, web["texts"], web["runtime"]) == (1, 0, "web page, not run: none of 2")
    assert "no browser wrote; --without-browser leaves it out" in capsys.readouterr().err
    status, [*_, web] = asked(trained, tmp_path, "--without-browser")
    assert (status, web["runtime"]) == (0, "web page, not run: none of 1")


def test_a_text_in_strings_that_differs_is_shown_with_its_character(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*given: Any) -> list[str]:
        texts = right(*given)
        return [texts[0][:3] + "\N{SNOWMAN}" + texts[0][4:], texts[1][:-1], *texts[2:]]

    right = parity.in_strings
    monkeypatch.setattr(parity, "in_strings", wrong)
    status, rows = asked(trained, tmp_path, "--without-browser")
    assert status == 1
    found = rows[-2]["differences"]
    assert [(one["case"], one["other"]) for one in found] == [(0, "\N{SNOWMAN}"), (1, "")]
    assert found[0]["at"] == 3
    assert all(len(one["keras"]) == 1 for one in found)
    shown = (tmp_path / "parity.md").read_text(encoding="utf-8")
    assert "| SavedModel, in strings | 0 | character 3 |" in shown


def test_texts_count_that_are_identical_in_all_runtimes_at_once() -> None:
    rows = [{"differences": [{"case": number} for number in wrong]} for wrong in ([], [3, 5], [5, 9], [0])]
    assert parity.everywhere({"texts": 1000, "rows": rows}) == 996


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main([str(tmp_path)]) == 2
    assert "is not a finished run" in capsys.readouterr().err
