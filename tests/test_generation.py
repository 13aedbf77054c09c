"""Text comes as it is written, whole characters only, and ends where it should."""

import gc
import hashlib
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.generation import decoding_loop, sampling, text_generation
from keras_lstmgen.generation.detokenizer import Detokenizer
from keras_lstmgen.generation.logits_processors import HostOptions
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import inference_step, run_directory
from keras_lstmgen.tokenizers import tokenizer, vocabulary

GOLDEN = Path(__file__).with_name("golden") / "run"
TOKENIZER = tokenizer.Tokenizer(vocabulary.train(recipe.Tokenizer(type="char"), lambda: iter(["abc \n字"])))
ids_of = TOKENIZER.encode


def fed(text: str, *stop: str) -> tuple[list[str], bool]:
    """What comes out token by token, and at the end."""
    tail = Detokenizer(TOKENIZER, stop)
    out = []
    for token in ids_of(text):
        out.append(tail.push(int(token)))
        if tail.stopped:
            return out, True
    return [*out, tail.flush()], tail.stopped


def test_a_character_of_four_bytes_comes_with_its_last_byte() -> None:
    assert len(ids_of("😀")) == 4
    assert fed("a😀b")[0] == ["a", "", "", "", "😀", "b", ""]


def test_each_byte_of_half_a_character_at_the_end_becomes_a_replacement_mark() -> None:
    tail = Detokenizer(TOKENIZER)
    assert [tail.push(int(token)) for token in ids_of("😀")[:2]] == ["", ""]
    assert tail.flush() == "\N{REPLACEMENT CHARACTER}" * 2


def test_what_may_begin_a_stop_string_is_held_back_until_it_cannot() -> None:
    assert fed("caabac", "aabb") == (["c", "", "", "", "aab", "ac", ""], False)


@settings(deadline=None)
@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string_whatever_came_before(text: str, stop: list[str]) -> None:
    out, stopped = fed(text, *stop)
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(word) for word in stop)]
    if not ends:
        assert ("".join(out), stopped) == (text, False)
        return
    begins = min(text.find(word) for word in stop if word in text[: ends[0]])
    assert ("".join(out), stopped) == (text[:begins], True)


@given(st.text("abc", max_size=12), st.text("abc", min_size=1, max_size=4))
@settings(deadline=None)
def test_nothing_is_held_back_that_cannot_become_a_stop_string(text: str, stop: str) -> None:
    tail, shown = Detokenizer(TOKENIZER, [stop]), ""
    for token in ids_of(text):
        shown += tail.push(int(token))
        if tail.stopped:
            return
        read = text[: len(shown) + len(tail._pending)]
        held = tail._pending
        assert read == shown + held
        assert held == max(
            (read[i:] for i in range(len(read) + 1) if stop.startswith(read[i:]) and read[i:] != stop),
            key=len,
        )


def test_the_same_seed_writes_the_same_text_alone_and_in_a_batch(trained: Path) -> None:
    model = run_directory.load(trained)
    together = Generator(model).generate("The ", GenerationConfig(40, Options(temperature=0.7)), seeds=[5, 6, 7])
    assert len({sample.text for sample in together}) == 3
    for seed, sample in zip([5, 6, 7], together, strict=True):
        alone = Generator(model).generate("The ", GenerationConfig(40, Options(temperature=0.7)), seeds=[seed])[0]
        assert (alone.text, alone.tokens) == (sample.text, sample.tokens)
        assert alone.logprob == pytest.approx(sample.logprob, abs=1e-3)


def test_what_is_emitted_is_the_text(trained: Path) -> None:
    emitted = ["", ""]

    def emit(row: int, text: str) -> None:
        emitted[row] += text

    samples = Generator(run_directory.load(trained)).generate("x", GenerationConfig(37), seeds=[1, 2], emit=emit)
    assert emitted == [sample.text for sample in samples]
    assert [(len(sample.tokens), sample.finish_reason) for sample in samples] == [(37, "length")] * 2


def test_a_stop_string_ends_the_text_and_stands_outside_it(trained: Path) -> None:
    model = run_directory.load(trained)
    free = Generator(model).generate("", GenerationConfig(120))[0].text
    word = free[60:63]
    stopped = Generator(model).generate("", GenerationConfig(120, stop=[word]))[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == free[: free.index(word)]


def test_a_chinese_stop_string_ends_the_text_also_where_it_is_spelled_in_bytes() -> None:
    model, seeds = run_directory.load(GOLDEN), range(40)
    assert model.tokenizer.id_of("山") is None
    free = [sample.text for sample in Generator(model).generate("月亮", GenerationConfig(20), seeds=seeds)]
    emitted = [""] * len(seeds)

    def emit(row: int, text: str) -> None:
        emitted[row] += text

    stopped = Generator(model).generate("月亮", GenerationConfig(20, stop=["在山"]), seeds=seeds, emit=emit)
    assert [sample.text for sample in stopped] == emitted == [text.partition("在山")[0] for text in free]
    assert sum("在山" in text for text in free) > 1


def test_an_end_symbol_ends_a_document(trained_lines: Path) -> None:
    model = run_directory.load(trained_lines)
    samples = Generator(model).generate("", GenerationConfig(60, Options(temperature=0.5)), seeds=range(6))
    ended = [sample for sample in samples if sample.finish_reason == "stop"]
    assert len(ended) >= 3
    assert all(sample.tokens[-1] == model.metadata.end_id and "</s>" not in sample.text for sample in ended)


def test_an_empty_prompt_starts_at_the_start_symbol_and_a_document_s_prompt_after_it(
    trained: Path, trained_lines: Path
) -> None:
    stream, lines = run_directory.load(trained), run_directory.load(trained_lines)
    assert stream.prompt_ids("") == [stream.tokenizer.newline_id]
    assert stream.prompt_ids("ab") == stream.tokenizer.encode("ab").tolist()
    assert lines.prompt_ids("") == [lines.tokenizer.start_id]
    assert lines.prompt_ids("the") == [lines.tokenizer.start_id, *lines.tokenizer.encode("the")]


def test_characters_that_training_never_saw_are_read_by_their_bytes(trained: Path) -> None:
    model = run_directory.load(trained)
    assert len(model.prompt_ids("月")) == 3
    text = Generator(model).generate("月", GenerationConfig(50, Options(temperature=2.0)))[0].text
    assert text.encode("utf-8").decode("utf-8") == text
    assert "\N{REPLACEMENT CHARACTER}" not in text


def test_ids_that_training_never_saw_are_never_written(trained: Path) -> None:
    model = run_directory.load(trained)
    samples = Generator(model).generate("", GenerationConfig(200, Options(temperature=3.0)), seeds=range(8))
    written = np.unique([token for sample in samples for token in sample.tokens])
    assert not set(written.tolist()) & set(model.metadata.unsampled_ids)
    assert len(model.metadata.unsampled_ids) > 200


def test_a_generator_is_traced_once_for_all_prompts_lengths_and_batches(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = run_directory.load(trained), GenerationConfig(2 * text_generation.CHUNK, Options(temperature=0.9))
    traces = list[str]()

    def counted(*arguments: Any) -> Any:
        traces.append("trace")
        return decoding_loop.decode(*arguments)

    monkeypatch.setattr(text_generation, "decode", counted)
    generator = Generator(model)
    generator.generate("The ", config, seeds=[1, 2])
    again = generator.generate("The ", config, seeds=[3, 4])
    other = generator.generate("A longer prompt", config, seeds=[5, 6])
    generator.generate("", GenerationConfig(text_generation.CHUNK + 3), seeds=[7])
    assert traces == ["trace"]
    generator.generate("", GenerationConfig(2, host=HostOptions(presence_penalty=1.0)), seeds=[7])
    assert traces == ["trace", "trace"]  # with a bias, the loop has another input
    assert again == Generator(model).generate("The ", config, seeds=[3, 4])
    assert other == Generator(model).generate("A longer prompt", config, seeds=[5, 6])
    assert len({sample.text for sample in (*again, *other)}) == 4


def test_a_text_longer_than_a_chunk_is_the_one_that_a_single_call_writes(trained: Path) -> None:
    model = run_directory.load(trained)
    N = 2 * text_generation.CHUNK + 5
    options = Options(temperature=0.9, repetition_penalty=1.2)
    text = decoding_loop.initial_state(2, model.metadata.state_size, model.metadata.vocab_size)
    ids = np.array([model.prompt_ids("The ")] * 2, np.int32)
    rows = sampling.rows([options] * 2)
    whole = Generator(model).loop(decoding_loop.Request(ids, sampling.noise([5, 6], N), rows), text)
    samples = Generator(model).generate("The ", GenerationConfig(N, options), seeds=[5, 6])
    assert [sample.tokens for sample in samples] == whole.tokens.numpy().tolist()
    assert [sample.logprob for sample in samples] == pytest.approx(whole.logprobs.numpy().sum(axis=1), abs=1e-3)


@pytest.mark.slow
def test_a_text_that_is_not_kept_takes_no_memory_however_long_and_is_the_one_that_is_written_in_one_go(
    trained: Path,
) -> None:
    """Here 10,000 tokens, in pieces of 16; all numbers stay numbers."""
    model, N, options = run_directory.load(trained), 10_000, Options(temperature=0.9, repetition_penalty=1.1)
    generator = Generator(model)
    generator.generate("", GenerationConfig(64, options))  # traced, and warm
    pieces, kept = 0, {}
    hashed, characters = hashlib.sha256(), 0

    def emit(_: int, text: str) -> None:
        nonlocal pieces, characters
        pieces, characters = pieces + 1, characters + len(text)
        hashed.update(text.encode())
        if pieces in (N // 4, N * 4 // 5):
            gc.collect()  # each call of TensorFlow leaves some cycles behind
            kept[pieces] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    (sample,) = generator.generate("", GenerationConfig(N, options, keep_text=False), emit=emit)
    tracemalloc.stop()
    assert (sample.text, sample.tokens, sample.length, sample.finish_reason) == ("", [], N, "length")
    assert math.isfinite(sample.logprob)
    assert sample.logprob < -N / 10
    assert kept[N * 4 // 5] - kept[N // 4] < 35_000  # bytes; the tokens alone would be some 44,000

    ids = np.array([model.prompt_ids("")], np.int32)
    start = decoding_loop.initial_state(1, model.metadata.state_size, model.metadata.vocab_size)
    whole = generator.loop(decoding_loop.Request(ids, sampling.noise([0], N), sampling.rows([options])), start)
    text = model.tokenizer.decode([int(token) for token in whole.tokens[0]])
    assert (len(text), hashlib.sha256(text.encode()).digest()) == (characters, hashed.digest())


def test_only_a_search_or_log_probabilities_copy_the_weights_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(weights: inference_step.Weights) -> inference_step.Weights:
        made.append(1)
        return inference_step.in_parts(weights)

    monkeypatch.setattr(decoding_loop, "in_parts", counted)
    drawn = ["generate", str(GOLDEN), "--prompt", "The ", "--max-new-tokens", "3"]
    assert command_line.main(drawn) == 0
    assert made == []
    for more in (["--beams", "2"], ["--logprobs", "1"]):
        assert command_line.main([*drawn, *more]) == 0
        assert len(made) == 1
        made.clear()
