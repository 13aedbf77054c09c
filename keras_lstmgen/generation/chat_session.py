"""Chat with a run: generate an answer to each turn without reading the earlier turns again.

A turn is one line of text from the user. The prompt depends on the corpus of the run:

- For a run that was trained on pairs, the prompt has the format of a source of the corpus. It consists of the last
  turns and answers, followed by the new turn. ``ChatModel.memory`` limits the number of turns and answers.
- Any other run continues one text. The prompt consists of all text so far, followed by the new turn. If the text so far
  ends with an end token, the new turn starts a new text.

In both cases, the answer is the text that ``Generator.generate`` returns for the same prompt, options and seed. A chat
is faster, because it reuses the cached LSTM state of the part of the prompt that the model has already read.
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

MAX_DIALOGUES = 1000  # turns are counted only in this number of dialogues at the start of a corpus


class CachedState(NamedTuple):
    """LSTM state of a model that has read a list of ids. Every prompt that begins with these ids can reuse the state.

    Attributes:
        ids: the ids that the model has read.
        recurrent: float32 [1, S], the state after these ids. None if the model has read no id.
    """

    ids: list[int]
    recurrent: Any


class Conversation(NamedTuple):
    """Immutable history of a conversation. ``answer`` returns a new history that includes the answer.

    Attributes:
        ids: ids of the text so far. For a run that was trained on pairs, ids of the last prompt and of the answer to
            this prompt.
        turns: for a run that was trained on pairs, the last turns and answers, which become part of the next prompt.
            Otherwise empty.
        cached: the LSTM state from which the last answer continued, and the LSTM state after the last answer.
    """

    ids: tuple[int, ...] = ()
    turns: tuple[str, ...] = ()
    cached: tuple[CachedState, ...] = ()


@dataclass(frozen=True)
class ChatModel:
    """A run to chat with, and the options of the chat.

    Attributes:
        generator: the text generator of the run.
        config: settings of the generation of each answer.
        memory: for a run that was trained on pairs, the maximum number of earlier turns and answers in a prompt, 0 or
            more. Each turn and each answer counts as one.

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
        """Return the run that the generator uses."""
        return self.generator.run

    @property
    def is_paired(self) -> bool:
        """Return whether the run was trained on pairs."""
        return self.run.metadata.source_end_id != NONE


@dataclass
class ChatSession:
    """A conversation with a model.

    Attributes:
        model: the run and its options.
        seed: 64-bit seed of the next answer. Each answer increases it by 1.
        conversation: the history, including the last answer.
        previous: the history before the last turn. None before the first turn.
        turn: the last turn.
    """

    model: ChatModel
    seed: int
    conversation: Conversation = field(default_factory=Conversation)
    previous: Conversation | None = None
    turn: str = ""

    def answer(self, turn: str, emit: Callable[[str], None], should_stop: Callable[[], bool]) -> Sample:
        """Generate and return the answer to a turn. See the function ``answer`` for the arguments."""
        self.turn, self.previous = turn, self.conversation
        return self.answer_again(emit, should_stop)

    def answer_again(self, emit: Callable[[str], None], should_stop: Callable[[], bool]) -> Sample:
        """Generate another answer to the last turn with the next seed.

        The new answer replaces the last answer in the history. See the function ``answer`` for the arguments.

        Raises:
            UserError: if no turn has been answered yet.
        """
        if self.previous is None:
            raise UserError("There is no turn to answer again.")
        answered = answer(self.model, self.previous, self.turn, self.seed, emit, should_stop)
        self.conversation, sample = answered
        self.seed += 1
        return sample

    def forget(self) -> None:
        """Start a new conversation, without resetting the seed."""
        self.conversation, self.previous = Conversation(), None


def remembered_turns(metadata: Metadata, memory: int | None) -> int:
    """Return the value of ``ChatModel.memory`` for a run.

    Args:
        metadata: metadata of the run.
        memory: the number of turns and answers that the user chose. None for the number of earlier turns and answers in
            the longest dialogue of the corpus.

    Returns:
        The maximum number of earlier turns and answers in a prompt. 0 for a run that was not trained on pairs.

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
    """Return the number of turns and answers in the longest dialogue of a corpus.

    The function reads only the first ``MAX_DIALOGUES`` dialogues. It returns 2 if the corpus is not available.
    """
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
    """Generate the answer to a turn. The model reads only the part of the prompt for which no LSTM state is cached.

    Args:
        model: the run and its options.
        conversation: the history before the turn.
        turn: one line of text.
        seed: 64-bit seed of the answer.
        emit: a function that is called with new characters of the answer when they are final.
        should_stop: a function that is called before each chunk of tokens. If it returns True, the answer ends.

    Returns:
        Two values: a new history that includes the turn and the answer, and the sample with the answer.
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
    """Return the ids of the whole prompt, including the ids for which an LSTM state is cached."""
    run = model.run
    if model.is_paired:
        return run.prompt_ids(pair([*conversation.turns, turn]) + "\n")  # the newline ends a source of several lines
    if not conversation.ids or conversation.ids[-1] == run.metadata.end_id:
        return run.prompt_ids(turn)
    return [*conversation.ids, *(int(token) for token in run.tokenizer.encode(turn))]


def _longest_cached(conversation: Conversation, ids: list[int]) -> CachedState:
    """Return the cached state of the longest proper prefix of ``ids``. If none is cached, return the empty state."""
    usable = [c for c in conversation.cached if len(c.ids) < len(ids) and c.ids == ids[: len(c.ids)]]
    return max(usable, key=lambda cached: len(cached.ids), default=CachedState([], None))


def _decoding_state(run: Run, cached: CachedState) -> DecodingState:
    """Convert a cached state to the state that the decoding loop continues from.

    In ``seen``, only the ids that the model has read are True. The model has not read the last token of the last
    answer, which may be an end token.
    """
    seen = np.zeros((1, run.metadata.vocab_size), bool)
    seen[0, np.array(cached.ids, np.int64)] = True
    zeros = np.zeros((1, run.metadata.state_size), np.float32)
    return DecodingState(zeros if cached.recurrent is None else cached.recurrent, seen)


def _whole_characters(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Remove the byte tokens of an incomplete character from the end of the ids of a text."""
    decoder = codecs.getincrementaldecoder("utf-8")(BYTE_BY_BYTE)
    decoder.decode(b"".join(tokenizer.piece_bytes(token) for token in ids[-4:]))  # a character has at most 4 bytes
    return ids[: len(ids) - len(decoder.getstate()[0])]
