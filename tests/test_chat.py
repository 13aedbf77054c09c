"""A chat answers as generate does on all that was said, without reading it again, and does what is typed."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from keras_lstmgen.cli import chat_terminal, command_line, inspection_report
from keras_lstmgen.config import recipe
from keras_lstmgen.generation import chat_session, text_generation
from keras_lstmgen.generation.chat_session import ChatModel, ChatSession, Conversation, answer
from keras_lstmgen.generation.decoding_loop import DecodingState, Request
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.system import signals
from keras_lstmgen.training import trainer
from keras_lstmgen.utils.errors import UserError

OPTIONS = Options(repetition_penalty=1.4, temperature=0.8, top_p=0.95)
DIALOGUES = [
    "how are you\tfine\tand you\twell",
    "hello\tgood day",
    "你好\t你好吗\t很好",
    "where is it\there\tthank you\tbye",
]
TINY = {
    "model.embedding_size": 5, "model.units": 14, "model.layers": 1, "model.attention": 3, "training.batch_size": 4,
    "training.epochs": 2, "training.window": 60, "corpus.validation_fraction": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on dialogues of up to four turns."""
    folder = tmp_path_factory.mktemp("dialogues")
    lines = [f"{number % 7}{line}{number % 5}" for line in DIALOGUES for number in range(30)]
    (folder / "talk.tsv").write_text("\n".join(lines), encoding="utf-8")
    values = TINY | {"corpus.source": [str(folder / "talk.tsv")], "corpus.documents": "pairs"}
    return trainer.train(recipe.override(recipe.Recipe(), values), folder / "runs", "talk").folder


@pytest.fixture(scope="module")
def poem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can write nothing but Chinese: its text has no other characters."""
    folder = tmp_path_factory.mktemp("poem")
    (folder / "poem.txt").write_text("床前明月光疑是地上霜举头望明月低头思故乡" * 30, encoding="utf-8")
    values = TINY | {"corpus.source": [str(folder / "poem.txt")], "training.window": 9}
    return trainer.train(recipe.override(recipe.Recipe(), values), folder / "runs", "poem").folder


def speaker(folder: Path, tokens: int = 21, memory: int = 0) -> tuple[ChatModel, list[int]]:
    """Who answers, and a list that grows by the ids read in each call."""
    loaded, read = run_directory.load(folder), list[int]()
    generator = Generator(loaded)

    loop = generator.loop

    def counted(request: Request, state: DecodingState) -> Any:
        read.append(request.ids.shape[1])
        return loop(request, state)

    generator.loop = counted
    return ChatModel(generator, GenerationConfig(tokens, OPTIONS), memory), read


# One text that goes on


def test_each_answer_is_the_one_to_the_whole_text_so_far(trained: Path) -> None:
    who, _ = speaker(trained)
    talk, text = Conversation(), ""
    for seed, line in enumerate(["The value ", "of a list\tis", "", "字 and so"]):
        talk, sample = answer(who, talk, line, seed)
        text += line
        (whole,) = Generator(who.run).generate(text, GenerationConfig(21, OPTIONS), seeds=[seed])
        assert (sample.text, sample.tokens) == (whole.text, whole.tokens)
        assert sample.logprob == pytest.approx(whole.logprob, abs=1e-3)
        text += sample.text


def test_what_was_read_is_not_read_again(trained: Path) -> None:
    who, read = speaker(trained)
    talk, _ = answer(who, Conversation(), "The value ", 0)
    assert read == [len("The value "), 1]  # 21 tokens are two chunks
    answer(who, talk, "of", 1)
    assert read[2:] == [1 + len("of"), 1]  # the last token that was written, and what was typed


def test_a_chat_that_begins_with_nothing_begins_at_the_start_symbol(trained: Path) -> None:
    who, _ = speaker(trained)
    talk, first = answer(who, Conversation(), "", 3)
    assert first == Generator(who.run).generate("", GenerationConfig(21, OPTIONS), seeds=[3])[0]
    _, second = answer(who, talk, "", 4)
    assert (
        second.text == Generator(who.run).generate("\n" + first.text, GenerationConfig(21, OPTIONS), seeds=[4])[0].text
    )


def test_what_was_broken_off_is_the_text_as_far_as_it_was_written(trained: Path) -> None:
    who, _ = speaker(trained, tokens=100)
    shown: list[str] = []
    talk, sample = answer(who, Conversation(), "The ", 0, shown.append, should_stop=lambda: len(shown) > 17)
    assert (sample.finish_reason, sample.text, len(sample.tokens)) == (
        "break",
        "".join(shown),
        2 * text_generation.CHUNK,
    )
    _, after = answer(who, talk, "x", 1)
    whole = Generator(who.run).generate(f"The {sample.text}x", GenerationConfig(100, OPTIONS), seeds=[1])[0]
    assert after.tokens == whole.tokens


def test_broken_off_before_the_first_token_nothing_is_lost(trained: Path) -> None:
    who, _ = speaker(trained)
    talk, sample = answer(who, Conversation(), "The ", 0, should_stop=lambda: True)
    assert (sample.tokens, sample.finish_reason) == ([], "break")
    _, after = answer(who, talk, "end", 1)
    assert after.tokens == Generator(who.run).generate("The end", GenerationConfig(21, OPTIONS), seeds=[1])[0].tokens


def test_an_end_symbol_ends_the_text_and_the_next_line_begins_another(trained_lines: Path) -> None:
    who, _ = speaker(trained_lines, tokens=200)
    who = replace(who, config=GenerationConfig(200, Options(temperature=0)))
    talk, sample = answer(who, Conversation(), "the moon", 0)
    assert sample.finish_reason == "stop"
    _, after = answer(who, talk, "床前", 1)
    assert after == Generator(who.run).generate("床前", GenerationConfig(200, Options(temperature=0)), seeds=[1])[0]


def test_half_a_character_is_no_part_of_the_text(trained: Path) -> None:
    tokenizer = run_directory.load(trained).tokenizer
    ids = [int(token) for token in tokenizer.encode("a月字")]
    assert len(ids) == 7
    kept = [len(chat_session._whole_characters(tokenizer, ids[:n])) for n in range(8)]
    assert kept == [0, 1, 1, 1, 4, 4, 4, 7]


# Turns of a run on pairs


@pytest.mark.parametrize("memory", [0, 1, 2, 5])
def test_each_answer_is_the_one_to_the_turns_that_are_remembered(dialogues: Path, memory: int) -> None:
    who, _ = speaker(dialogues, tokens=33, memory=memory)
    talk, said = Conversation(), list[str]()
    for seed, line in enumerate(["how are you", "你好吗", "where is it", "bye"]):
        talk, sample = answer(who, talk, line, seed)
        prompt = "\n".join([*said[len(said) - min(memory, len(said)) :], line]) + "\n"
        (whole,) = Generator(who.run).generate(prompt, GenerationConfig(33, OPTIONS), seeds=[seed])
        assert (sample.text, sample.tokens) == (whole.text, whole.tokens), prompt
        said += [line, " ".join(sample.text.splitlines())]


def test_earlier_turns_are_not_read_again_until_the_first_is_forgotten(dialogues: Path) -> None:
    who, read = speaker(dialogues, tokens=text_generation.CHUNK, memory=2)
    who = replace(who, config=GenerationConfig(text_generation.CHUNK, Options(temperature=0)))

    def ids(text: str) -> int:
        return len(who.run.tokenizer.encode(text))

    talk, first = answer(who, Conversation(), "hello", 0)
    assert read.pop(0) == 1 + ids("hello\n")  # the start symbol
    talk, second = answer(who, talk, "你好", 0)
    assert read.pop(0) == ids("\n你好\n") + (first.finish_reason == "length")  # and the last token, not read yet
    answer(who, talk, "bye", 0)
    assert read.pop(0) == 1 + ids(f"你好\n{second.text}\nbye\n")


def test_it_remembers_as_many_turns_as_its_corpus_has(dialogues: Path, trained: Path, tmp_path: Path) -> None:
    metadata = run_directory.load_metadata(dialogues)

    def kept(**values: Any) -> int:
        tables = {**metadata.recipe, "corpus": {**metadata.recipe["corpus"], **values}}
        return chat_session.remembered_turns(replace(metadata, recipe=tables), None)

    assert kept() == 2
    (tmp_path / "two.tsv").write_text("a\tb\nc\td\n", encoding="utf-8")
    assert kept(source=[str(tmp_path / "two.tsv")]) == 0
    assert kept(source=[str(tmp_path / "gone.tsv")]) == 0
    (tmp_path / "other.tsv").write_text("no longer a pair\n", encoding="utf-8")
    assert kept(source=[str(tmp_path / "other.tsv")]) == 0
    assert kept(source=["-"]) == 0  # which is what the chat itself reads
    assert kept(source=["https://nowhere.invalid/a.tsv"], sha256=["0" * 64]) == 0
    assert kept(documents="jsonl", field=["a", "b", "c"]) == 1
    assert chat_session.remembered_turns(metadata, 7) == 7
    assert chat_session.remembered_turns(run_directory.load_metadata(trained), None) == 0


# What is typed


def chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, text: str, *words: str
) -> tuple[str, str]:
    """Standard output and error of a chat whose input is piped."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
    capsys.readouterr()
    assert command_line.main(["chat", str(folder), "--max-new-tokens", "15", *words]) == 0
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def test_piped_lines_are_answered_one_by_one_and_a_seed_repeats_all_of_it(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = chat(monkeypatch, capsys, trained, "The \nA\n", "--seed", "3")
    model = run_directory.load(trained)
    first = Generator(model).generate("The ", GenerationConfig(15), seeds=[3])[0].text
    second = Generator(model).generate(f"The {first}A", GenerationConfig(15), seeds=[4])[0].text
    assert out == f"{first}\n{second}\n"
    assert err.rstrip().endswith(f"next: keras-lstmgen evaluate {trained}")
    assert chat(monkeypatch, capsys, trained, "The \nA\n", "--seed", "3")[0] == out


def test_again_takes_the_next_seed_and_the_place_of_the_answer_before(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = chat(monkeypatch, capsys, trained, "The \n/again\n go\n")
    model = run_directory.load(trained)
    texts = [Generator(model).generate("The ", GenerationConfig(15), seeds=[seed])[0].text for seed in (0, 1)]
    assert texts[0] != texts[1]
    last = Generator(model).generate(f"The {texts[1]} go", GenerationConfig(15), seeds=[2])[0].text
    assert out == f"{texts[0]}\n{texts[1]}\n{last}\n"


def test_forgetting_begins_anew_and_a_seed_can_be_set(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = chat(monkeypatch, capsys, trained, "The \n/forget\n/seed -9\nA\n/quit\nnever read\n")
    model = run_directory.load(trained)
    texts = [Generator(model).generate(p, GenerationConfig(15), seeds=[s])[0].text for p, s in (("The ", 0), ("A", -9))]
    assert out == "".join(f"{text}\n" for text in texts)


def test_chinese_is_read_and_written_in_utf_8_whatever_the_terminal_says_of_itself(
    poem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("床前明月\n".encode()), encoding="ascii"))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert command_line.main(["chat", str(poem), "--max-new-tokens", "15"]) == 0
    (sample,) = Generator(run_directory.load(poem)).generate("床前明月", GenerationConfig(15))
    assert written.getvalue().decode() == f"{sample.text}\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/agian", "/agian: unknown command; /help lists the commands."),
        ("/seed x", "/seed: 'x' is not a whole number"),
        ("/forget me", "/forget me: unknown command; /help lists the commands."),
        ("/again", "There is no turn to answer again."),
        ("/forget\n/again", "There is no turn to answer again."),
        ("/help", "/seed N    set the seed of the next answer"),
    ],
)
def test_a_command_never_reaches_the_model(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    out, err = chat(monkeypatch, capsys, trained, f"{line}\n")
    assert out == ""
    assert f"{said}\n" in err


def test_an_empty_line_is_no_turn_of_a_run_on_pairs(
    dialogues: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = chat(monkeypatch, capsys, dialogues, "\n  \nhello\n")
    assert out == Generator(run_directory.load(dialogues)).generate("hello", GenerationConfig(15))[0].text + "\n"


@pytest.mark.parametrize(
    ("data", "words", "said"),
    [
        (b"", ["--memory", "2"], "--memory: this run was not trained on pairs and keeps its whole text, "),
        (b"", ["--max-new-tokens", "0"], "--max-new-tokens: 0 is out of range; give 1 or more"),
        (b"", ["--top-p", "0"], "top_p: 0.0 is out of range; "),
        (b"ab\xff\n", [], "standard input: not UTF-8 at byte 2 of a line; "),
    ],
)
def test_what_cannot_be_used_is_one_line(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: bytes,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    assert command_line.main(["chat", str(trained), *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"keras-lstmgen: {said}")


def test_a_memory_below_nothing_is_refused(dialogues: Path) -> None:
    with pytest.raises(UserError, match=r"--memory: -1 is out of range; give 0 or more"):
        chat_session.remembered_turns(run_directory.load_metadata(dialogues), -1)


def test_the_first_ctrl_c_breaks_off_the_answer_and_the_talk_goes_on(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, written = iter(["The ", "x", None]), list[str]()

    def interrupt(text: str) -> None:
        if not written:
            os.kill(os.getpid(), signal.SIGINT)
        written.append(text)

    who, _ = speaker(trained, tokens=4 * text_generation.CHUNK)
    monkeypatch.setattr(chat_terminal, "read_line", lambda _: next(lines))
    monkeypatch.setattr(chat_terminal, "_write", interrupt)
    with signals.raise_terminated():
        chat_terminal.converse(ChatSession(who, 0))
    whole = Generator(who.run).generate("The ", GenerationConfig(text_generation.CHUNK, OPTIONS))[0].text
    after = (
        Generator(who.run)
        .generate(f"The {whole}x", GenerationConfig(4 * text_generation.CHUNK, OPTIONS), seeds=[1])[0]
        .text
    )
    assert "".join(written) == f"{whole}\n{after}\n"


def test_ctrl_c_twice_with_no_line_between_leaves(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[Any] = [KeyboardInterrupt, "/help", KeyboardInterrupt, KeyboardInterrupt, "never read"]

    def line(_: str) -> str:
        entry = typed.pop(0)
        if entry is KeyboardInterrupt:
            raise KeyboardInterrupt
        return str(entry)

    monkeypatch.setattr(chat_terminal, "read_line", line)
    chat_terminal.converse(ChatSession(speaker(trained)[0], 0))
    assert typed == ["never read"]


# A real terminal


@dataclass
class Terminal:
    """A program that runs in a terminal of its own."""

    process: subprocess.Popen[bytes]
    master: int
    screen: bytes = b""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C until something happens.

        One that comes between the sign and the wait for a key is only seen at the next one (CPython's ``readline``).
        """
        for _ in range(12):
            self.process.send_signal(signal.SIGINT)
            if select.select([self.master], [], [], 10)[0]:
                return

    def until(self, wanted: str) -> str:
        """What the screen got until ``wanted`` came, without colours; what comes later is for the next call."""
        ends = time.monotonic() + 120
        while wanted not in (shown := _plain(self.screen)):
            assert time.monotonic() < ends, shown
            if select.select([self.master], [], [], 1)[0]:
                self.screen += os.read(self.master, 4096)
        self.screen = b""
        return shown


def _plain(screen: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.decode("utf-8", "ignore")).replace("\r\n", "\n")


@contextmanager
def terminal(*words: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "keras_lstmgen.chat", *words], stdin=slave, stdout=slave, stderr=slave,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm", "COLUMNS": "80"},
        )  # fmt: skip
        try:
            yield Terminal(process, master)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(slave)
        os.close(master)


def test_chinese_is_typed_edited_and_answered_whole_in_a_terminal(poem: Path) -> None:
    (sample,) = Generator(run_directory.load(poem)).generate("床前明月", GenerationConfig(9, Options(temperature=0)))
    assert re.fullmatch(r"[\u4e00-\u9fff]{9}", sample.text)
    with terminal(str(poem), "--temperature", "0", "--max-new-tokens", "9") as screen:
        screen.until("> ")
        screen.type("床前霜")
        screen.until("霜")
        screen.type("\x7f明月\n")  # one press of the backspace key takes one character
        shown = screen.until("\n> ")
        assert f"\b\b明月\n{sample.text}\n" in shown  # which is two columns wide
        assert "\b\b\b" not in shown
        assert "\N{REPLACEMENT CHARACTER}" not in shown
        screen.type("\x1b[A\x01/again \x0b\n")  # the line before, and all of it replaced
        assert f"\n{sample.text}\n" in screen.until("\n> ")
        screen.type("\x04")
        assert "next: " in screen.until("evaluate")
        assert screen.process.wait(timeout=300) == 0


def test_ctrl_c_in_a_terminal_breaks_off_an_endless_answer_and_then_leaves(trained: Path) -> None:
    with terminal(str(trained), "--max-new-tokens", "10000000") as screen:
        screen.until("> ")
        screen.type("The \n")
        screen.until("The \n")
        while len(screen.screen) < 50:
            screen.screen += os.read(screen.master, 64)
        screen.process.send_signal(signal.SIGINT)
        screen.until("\n> ")
        screen.interrupt()
        screen.until("next: ")
        assert screen.process.wait(timeout=300) == 0


@pytest.mark.parametrize(
    "words",
    [["generate", "--prompt", "\ufeff where is it\r\n"], ["generate", "--prompt-file", "FILE"],
     ["generate", "--prompt-file", "-"], ["generate", "--interactive"], ["chat"],
     ["inspect", "--prompt", "\ufeff where is it\r\n"]],
    ids=" ".join,
)  # fmt: skip
def test_a_prompt_from_windows_is_read_as_the_corpus_was_wherever_it_comes_from(
    dialogues: Path, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = "\ufeff where is it\r\n".encode()
    (tmp_path / "prompt.txt").write_bytes(data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    read: list[str] = []

    def generated(_generator: object, prompt: str, *_: object, **_named: object) -> list[Sample]:
        read.append(prompt)
        return [Sample(finish_reason="length")]

    def answered(_session: object, turn: str, *_: object) -> Sample:
        read.append(turn)
        return Sample(finish_reason="length")

    monkeypatch.setattr(Generator, "generate", generated)
    monkeypatch.setattr(ChatSession, "answer", answered)
    monkeypatch.setattr(inspection_report, "inspect", lambda _run, asked, _folder: read.append(asked.prompt))
    verb, *others = words
    others = [str(tmp_path / "prompt.txt") if word == "FILE" else word for word in others]
    assert command_line.main([verb, str(dialogues), *others]) == 0
    assert [prompt.removesuffix("\n") for prompt in read] == ["where is it"]
