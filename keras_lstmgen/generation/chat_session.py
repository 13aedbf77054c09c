"""Chat with a run: answers to turns, without reading earlier turns again.

A run on pairs answers each turn like a source of its corpus: the model reads the last turns of both sides, as many as
it remembers, and then the turn. Any other run continues one text: the model reads each turn after the text so far, and
an end token ends the text. Every answer equals the text that ``Generator.generate`` gives for the whole prompt.
"""

import codecs
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, sources, splits
from keras_lstmgen.data.readers import pair
from keras_lstmgen.generation.decoding_loop import DecodingState
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models.run_directory import NONE, Metadata, Run
from keras_lstmgen.tokenizers.tokenizer import BYTE_BY_BYTE, Tokenizer
from keras_lstmgen.utils.errors import UserError, check_at_least

MAX_DIALOGUES = 1000  # of a corpus, whose turns are counted


class CachedState(NamedTuple):
    """State of the model after reading some ids. It serves every text that begins with these ids.

    Attributes:
        ids: the ids.
        recurrent: float32 [1, S]; None: no id was read.
    """

    ids: list[int]
    recurrent: Any


class Conversation(NamedTuple):
    """Immutable history of a conversation; ``answer`` returns the next one.

    Attributes:
        ids: ids of the text so far; for a run on pairs, ids of the last prompt and its answer.
        turns: the turns that a run on pairs remembers.
        cached: states before and after the last answer.
    """

    ids: tuple[int, ...] = ()
    turns: tuple[str, ...] = ()
    cached: tuple[CachedState, ...] = ()


@dataclass(frozen=True)
class ChatModel:
    """The model of a chat and its options.

    Attributes:
        generator: generator of the run.
        config: how answers are generated.
        memory: number of turns that a run on pairs remembers, 0 or more.

    Raises:
        UserError: if ``memory`` is out of range.
    """

    generator: Generator
    config: GenerationConfig
    memory: int

    def __post_init__(self) -> None:
        """Check the range of ``memory``."""
        check_at_least("--memory", self.memory, 0)

    @property
    def run(self) -> Run:
        """Return the run."""
        return self.generator.run

    @property
    def is_paired(self) -> bool:
        """Return whether the run was trained on pairs."""
        return self.run.metadata.source_end_id != NONE


@dataclass
class ChatSession:
    """A conversation with a model.

    Attributes:
        model: the model.
        seed: seed of the next answer. Each answer increases it by 1.
        conversation: history including the last answer.
        previous: history before the last turn; None: there is no turn.
        turn: the last turn.
    """

    model: ChatModel
    seed: int
    conversation: Conversation = field(default_factory=Conversation)
    previous: Conversation | None = None
    turn: str = ""

    def answer(self, turn: str, emit: Callable[[str], None], should_stop: Callable[[], bool]) -> Sample:
        """Answer a turn. See ``answer`` of this module for the arguments."""
        self.turn, self.previous = turn, self.conversation
        return self.answer_again(emit, should_stop)

    def answer_again(self, emit: Callable[[str], None], should_stop: Callable[[], bool]) -> Sample:
        """Replace the answer to the last turn by an answer with the next seed.

        Raises:
            UserError: if there is no turn.
        """
        if self.previous is None:
            raise UserError("There is no turn to answer again.")
        answered = answer(self.model, self.previous, self.turn, self.seed, emit, should_stop)
        self.conversation, sample = answered
        self.seed += 1
        return sample

    def forget(self) -> None:
        """Start a new conversation; the seed stays."""
        self.conversation, self.previous = Conversation(), None


def remembered_turns(metadata: Metadata, memory: int | None) -> int:
    """Return the number of turns that a chat remembers.

    Args:
        metadata: metadata of the run.
        memory: the number to use; None: as many turns as the dialogues of the corpus have before the turn to answer.

    Raises:
        UserError: if ``memory`` is out of range, or is given for a run that was not trained on pairs.
    """
    if metadata.source_end_id == NONE:
        if memory is not None:
            raise UserError("--memory: this run was not trained on pairs and keeps its whole text, so leave it out")
        return 0
    if memory is None:
        return max(_longest_dialogue(recipe.parse(metadata.recipe).corpus) - 2, 0)
    check_at_least("--memory", memory, 0)
    return memory


def _longest_dialogue(settings: recipe.Corpus) -> int:
    """Return the number of turns of the longest dialogues, including the answer; 2 if the corpus is unavailable."""
    if len(settings.field) > 1:
        return len(settings.field)
    if settings.documents != "pairs" or settings.labels:
        return 2
    with suppress(UserError):  # the corpus has changed since the training
        text = prepared_corpus.source_corpus(settings)
        if sources.is_available(text):
            dialogues = islice(splits.pieces(text, "train"), MAX_DIALOGUES)
            return max((dialogue.count("\n") + 1 for dialogue in dialogues), default=2)
    return 2


def answer(
    model: ChatModel,
    conversation: Conversation,
    turn: str,
    seed: int,
    emit: Callable[[str], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Conversation, Sample]:
    """Answer a turn. The model reads only the ids that it has not read yet.

    Args:
        model: the model.
        conversation: history before the turn.
        turn: one line of text.
        seed: 64-bit seed of the answer.
        emit: called with new characters, as soon as these can no longer change.
        should_stop: called before each chunk of tokens; True interrupts the answer.

    Returns:
        The history including the answer, and the answer.
    """
    prompt, run = _prompt(model, conversation, turn), model.run
    cached = _longest_cached(conversation, prompt)
    (sample,), state = model.generator.continue_texts(
        prompt[len(cached.ids) :],
        _decoding_state(run, cached),
        model.config,
        seeds=[seed],
        emit=lambda _, new: emit(new),
        should_stop=should_stop,
    )
    after = CachedState([*prompt, *sample.tokens[:-1]], state.recurrent) if sample.tokens else cached
    turns = (*conversation.turns, turn, sample.text)[-model.memory :] if model.memory else ()
    ids = _whole_characters(run.tokenizer, [*prompt, *sample.tokens])
    return Conversation(tuple(ids), turns if model.is_paired else (), (cached, after)), sample


def _prompt(model: ChatModel, conversation: Conversation, turn: str) -> list[int]:
    """Return the ids of the whole prompt, including the ids that the model has already read."""
    run = model.run
    if model.is_paired:
        return run.prompt_ids(pair([*conversation.turns, turn]) + "\n")  # the newline ends a source of several lines
    if not conversation.ids or conversation.ids[-1] == run.metadata.end_id:
        return run.prompt_ids(turn)
    return [*conversation.ids, *(int(token) for token in run.tokenizer.encode(turn))]


def _longest_cached(conversation: Conversation, ids: list[int]) -> CachedState:
    """Return the cached state of the longest beginning of ``ids`` that leaves at least one id to read."""
    usable = [c for c in conversation.cached if len(c.ids) < len(ids) and c.ids == ids[: len(c.ids)]]
    return max(usable, key=lambda cached: len(cached.ids), default=CachedState([], None))


def _decoding_state(run: Run, cached: CachedState) -> DecodingState:
    """Return the state from which the answer continues. A generated end token was not read and is not seen."""
    seen = np.zeros((1, run.metadata.vocab_size), bool)
    seen[0, np.array(cached.ids, np.int64)] = True
    zeros = np.zeros((1, run.metadata.state_size), np.float32)
    return DecodingState(zeros if cached.recurrent is None else cached.recurrent, seen)


def _whole_characters(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Remove byte tokens of an incomplete character from the end of a text."""
    decoder = codecs.getincrementaldecoder("utf-8")(BYTE_BY_BYTE)
    decoder.decode(b"".join(tokenizer.piece_bytes(token) for token in ids[-4:]))  # a character has at most 4 bytes
    return ids[: len(ids) - len(decoder.getstate()[0])]
