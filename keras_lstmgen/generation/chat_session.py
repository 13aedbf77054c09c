"""A conversation in the terminal: what is typed is a turn, and what was said before is not read again.

A run on pairs answers each turn as it was trained to: the turn is a source, and before it stand as many earlier turns,
of either side, as the run remembers. Any other run goes on with one text: what is typed is read behind what stands
there, and an end symbol ends the text. Every answer is the one that ``generation.generate`` writes for the whole text.
"""

import codecs
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from rich.markup import escape
from rich.text import Text as Styled

from keras_lstmgen.cli import console
from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, sources, splits
from keras_lstmgen.data.readers import pair
from keras_lstmgen.generation import text_generation
from keras_lstmgen.generation.decoding_loop import Text
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import Sample, Writer
from keras_lstmgen.models.run_directory import NONE, Metadata, Run
from keras_lstmgen.system import signals
from keras_lstmgen.tokenizers.tokenizer import BYTE_BY_BYTE, Tokenizer
from keras_lstmgen.utils import numerals
from keras_lstmgen.utils.errors import UserError, check_at_least

SIGN = "> "
LEAVE = 2  # so many times Ctrl-C with no line between them
EXAMPLES = 1000  # of a corpus, looked at for how many turns they have
HELP = """\
/again     another answer to the last turn
/forget    begin anew: nothing that was said counts
/seed N    the seed of the next answer
/quit      leave; Ctrl-D does too, and Ctrl-C twice; once it breaks off an answer
/help      this list"""


class Held(NamedTuple):
    """A state, and the ids that it has read: it serves every text that begins with them."""

    ids: list[int]
    state: Any  # float32 [1, S]; None: nothing is read


class Talk(NamedTuple):
    """What was said so far. It is never changed: ``answer`` gives another."""

    ids: tuple[int, ...] = ()  # of the one text that goes on; in a run on pairs, of the last turn and its answer
    turns: tuple[str, ...] = ()  # that a run on pairs remembers
    held: tuple[Held, ...] = ()  # before the last answer, and after it


@dataclass(frozen=True)
class Speaker:
    """Who answers, and how."""

    run: Run
    call: Writer  # ``generation.writer``'s
    options: Options
    max_new_tokens: int
    memory: int  # turns that a run on pairs remembers

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        check_at_least("--max-new-tokens", self.max_new_tokens, 1)
        check_at_least("--memory", self.memory, 0)

    @property
    def is_paired(self) -> bool:
        """Whether each turn is a source of its own."""
        return self.run.metadata.source_end_id != NONE


@dataclass
class Session:
    """What a conversation has come to."""

    speaker: Speaker
    seed: int  # of the next answer
    talk: Talk = field(default_factory=Talk)
    before: Talk | None = None  # what the last turn was said to; None: there is none
    line: str = ""  # the last turn


def turns_kept(metadata: Metadata, asked: int | None) -> int:
    """How many turns a run remembers: as asked, else as many as its corpus puts before the one to answer."""
    if metadata.source_end_id == NONE:
        if asked is not None:
            raise UserError("--memory: is of a run on pairs; this one keeps its whole text, so leave it out")
        return 0
    if asked is None:
        return max(_turns(recipe.parse(metadata.recipe).corpus) - 2, 0)
    check_at_least("--memory", asked, 0)
    return asked


def _turns(settings: recipe.Corpus) -> int:
    """Turns of the longest dialogues, answer included; 2 where the corpus is not at hand to look."""
    if len(settings.field) > 1:
        return len(settings.field)
    if settings.documents != "pairs" or settings.labels:
        return 2
    with suppress(UserError):  # a corpus that has changed since is as good as none
        text = prepared_corpus.source_corpus(settings)
        if sources.is_available(text):
            counts = (pair.count("\n") + 1 for pair in islice(splits.pieces(text, "train"), EXAMPLES))
            return max(counts, default=2)
    return 2


def answer(
    speaker: Speaker,
    talk: Talk,
    line: str,
    seed: int,
    emit: Callable[[str], None] = lambda _: None,
    broken_off: Callable[[], bool] = lambda: False,
) -> tuple[Talk, Sample]:
    """Answer a line; what the state has read already of what is to be answered is not read again."""
    asked, run = _to_answer(speaker, talk, line), speaker.run
    held = _held(talk, asked)
    (sample,), text = text_generation.go_on(
        run, asked[len(held.ids) :], _text(run, held), speaker.max_new_tokens, speaker.options,
        seeds=[seed], emit=lambda _, new: emit(new), call=speaker.call, broken_off=broken_off,
    )  # fmt: skip
    after = Held([*asked, *sample.tokens[:-1]], text.state) if sample.tokens else held
    said = (*talk.turns, line, sample.text)[-speaker.memory :] if speaker.memory else ()
    ids = _whole(run.tokenizer, [*asked, *sample.tokens])
    return Talk(tuple(ids), said if speaker.is_paired else (), (held, after)), sample


def _to_answer(speaker: Speaker, talk: Talk, line: str) -> list[int]:
    """The ids of all that is to be read before an answer is written."""
    run = speaker.run
    if speaker.is_paired:
        return run.prompt_ids(pair([*talk.turns, line]) + "\n")  # it ends the source, where lines stand before
    if not talk.ids or talk.ids[-1] == run.metadata.end_id:
        return run.prompt_ids(line)
    return [*talk.ids, *(int(token) for token in run.tokenizer.encode(line))]


def _held(talk: Talk, ids: list[int]) -> Held:
    """The state that has read most of ``ids`` and nothing else; one id at least is left to read."""
    fitting = [held for held in talk.held if len(held.ids) < len(ids) and held.ids == ids[: len(held.ids)]]
    return max(fitting, key=lambda held: len(held.ids), default=Held([], None))


def _text(run: Run, held: Held) -> Text:
    """What ``go_on`` goes on from. An end symbol was drawn, not read, and does not count as seen."""
    seen = np.zeros((1, run.metadata.vocab_size), bool)
    seen[0, np.array(held.ids, np.int64)] = True
    return Text(np.zeros((1, run.metadata.state_size), np.float32) if held.state is None else held.state, seen)


def _whole(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The ids without the bytes at their end, each an id, that only begin a character."""
    decoder = codecs.getincrementaldecoder("utf-8")(BYTE_BY_BYTE)
    decoder.decode(b"".join(tokenizer.piece_bytes(token) for token in ids[-4:]))
    return ids[: len(ids) - len(decoder.getstate()[0])]


def converse(speaker: Speaker, seed: int) -> None:
    """Answer line after line on standard input, until it ends or is told to; answers alone go to standard output."""
    with suppress(ImportError):  # there is none on Windows, whose terminal edits lines by itself
        importlib.import_module("readline")
    session, breaks = Session(speaker, seed), 0
    read = speaker.run.recipe.corpus
    _note("Type a line. /help lists what else can be typed.")
    while breaks < LEAVE:
        try:
            line = line_typed(SIGN)
            if line is None:
                break
            turn = splits.normalized_prompt(line, read)
            breaks = _obey(session, turn) if turn.startswith("/") else _take_turn(session, turn)
        except KeyboardInterrupt:
            breaks += 1
            _note("\nCtrl-C again, Ctrl-D or /quit leaves." if breaks < LEAVE else "")
        except UserError as error:
            if not sys.stdin.isatty():
                raise
            _note(str(error))  # a line that cannot be read does not end what was said before it


def line_typed(sign: str) -> str | None:
    """A line of standard input, asked for with a sign where that is a terminal; None at its end."""
    try:
        return input(sign if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8 at byte {error.start} of a line; convert it first") from error


def _obey(session: Session, line: str) -> int:
    """Do what a command says; give how often Ctrl-C was pressed meanwhile."""
    match line.split():
        case ["/quit"]:
            return LEAVE
        case ["/again"] if session.before is not None:
            return _answer(session, session.before)
        case ["/again"]:
            _note("There is no turn to answer again.")
        case ["/forget"]:
            session.talk, session.before = Talk(), None
            _note("Forgotten.")
        case ["/seed", number]:
            _take_seed(session, number)
        case ["/help"]:
            _note(HELP)
        case _:
            _note(f"{line}: is no command; /help lists them.")
    return 0


def _take_seed(session: Session, number: str) -> None:
    try:
        session.seed = numerals.parse_seed(number)
    except ValueError as error:
        _note(f"/seed: {error}")


def _take_turn(session: Session, line: str) -> int:
    """Answer a line; an empty one lets a text go on, but is no source."""
    if session.speaker.is_paired and not line.strip():
        return 0
    session.line = line
    return _answer(session, session.talk)


def _answer(session: Session, talk: Talk) -> int:
    """Write the answer to the last turn on the screen; give how often Ctrl-C was pressed meanwhile."""
    with _counted_breaks() as breaks:
        after, sample = answer(
            session.speaker, talk, session.line, session.seed, _write, broken_off=lambda: breaks() > 0
        )
    _write("\n")
    session.talk, session.before, session.seed = after, talk, session.seed + 1
    if sample.finish_reason == "stop" and not session.speaker.is_paired:
        _note("The text ends here; the next line begins another.")
    return breaks()


@contextmanager
def _counted_breaks() -> Iterator[Callable[[], int]]:
    """Count Ctrl-C instead of being interrupted by it, so that what was written by then is kept."""
    count = 0

    def add(*_: Any) -> None:
        nonlocal count
        count += 1

    with signals.installed({signal.SIGINT: add}):
        yield lambda: count


def _write(text: str) -> None:
    """Put a part of an answer on the screen, coloured if it is one."""
    if sys.stdout.isatty():
        console.out.print(Styled(text), style="cyan", end="", soft_wrap=True)
    else:
        sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    console.notes.print(f"[dim]{escape(text)}[/dim]")
