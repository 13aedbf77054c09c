"""What the host forbids never comes, what it makes less likely does so by its definition, and all else stays."""

import itertools
import json
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_lstmgen.api import loaded_model
from keras_lstmgen.config import recipe
from keras_lstmgen.generation import (
    beam_search,
    decoding_loop,
    logits_processors,
    regex_mask,
    sampling,
)
from keras_lstmgen.generation.growing_text import UNFINISHED, Sample
from keras_lstmgen.generation.logits_processors import Constraints, HostOptions
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.tokenizers import tokenizer, vocabulary
from keras_lstmgen.utils.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests are no package that is installed
from tests.logits import logits

V, END = 7, 2


def limited(options: HostOptions, bias: dict[int, float] | None = None, unsampled: Iterable[int] = ()) -> Constraints:
    """Options for a vocabulary of V ids without a tokenizer."""
    fixed = np.zeros(V, np.float32)
    for token, value in (bias or {}).items():
        fixed[token] = value
    fixed[list(unsampled)] = -np.inf
    return Constraints(options, fixed, END, None)


# The order, against an oracle in Python's float64, from the words of the page


class Drawing(NamedTuple):
    """Of one token: what the model says, what is read and written, and the noise."""

    logits: list[float]
    bias: dict[int, float]
    prompt: list[int]
    output: list[int]
    noise: float


def oracle(drawing: Drawing, options: Options, host: HostOptions, unsampled: set[int]) -> tuple[int | None, float]:
    """The token that is drawn, None where nothing is left; and how near the noise is to another."""
    logits, bias, prompt, output, noise = drawing
    left = {}
    for token, x in enumerate(logits):
        if token in unsampled or bias.get(token, 0) == -math.inf or repeated(prompt + output, token, host):
            continue
        if token in prompt + output:
            x = x / options.repetition_penalty if x > 0 else x * options.repetition_penalty
        x += bias.get(token, 0)
        x -= host.frequency_penalty * output.count(token) + host.presence_penalty * (token in output)
        left[token] = x / (options.temperature or 1.0)
    if not left:
        return None, 1.0
    if options.temperature == 0:
        best = max(left, key=lambda token: (left[token], -token))
        assume(all(x == left[best] or left[best] - x > 1e-5 for x in left.values()))
        return best, 1.0
    falling = sorted(left.values(), reverse=True)
    cuts = [-math.inf, falling[0] + math.log(options.min_p)] if options.min_p else [-math.inf]
    if options.top_k:
        cuts.append(falling[min(options.top_k, len(falling)) - 1])
    if options.top_p < 1:
        whole = sum(math.exp(x - falling[0]) for x in falling)
        sums = list(itertools.accumulate(math.exp(x - falling[0]) / whole for x in falling))
        cuts.append(next((x for x, total in zip(falling, sums, strict=True) if total >= options.top_p), falling[-1]))
        assume(min(abs(total - options.top_p) for total in sums) > 1e-5)
    assume(all(abs(x - cut) > 1e-5 or x == cut for x in falling for cut in cuts))
    kept = {token: math.exp(x - falling[0]) for token, x in left.items() if x >= max(cuts)}
    sums = list(itertools.accumulate(weight / sum(kept.values()) for weight in kept.values()))
    near = min(abs(total - noise) for total in sums)
    return next((token for token, total in zip(kept, sums, strict=True) if total > noise), list(kept)[-1]), near


def repeated(text: list[int], token: int, host: HostOptions) -> bool:
    """Whether the token would make the last n tokens a run that stands there already."""
    n, longer = host.no_repeat_ngram, [*text, token]
    return n > 0 and any(text[i : i + n] == longer[-n:] for i in range(len(text) - n + 1))


@tf.function(reduce_retracing=True)
def _choose(logits: Any, noise: Any, seen: Any, bias: Any, rows: sampling.Rows) -> Any:
    return sampling.choose(logits, sampling.ready_noise(noise, rows), seen, sampling.ready(rows, V - 2), bias)


def chosen(
    logits: list[float], options: Options, limits: Constraints, prompt: list[int], output: list[int], noise: float
) -> int | None:
    """The token that ``sampling.choose`` draws under ``constraints.outlook``, among the V - 2 that may be written."""
    draft = logits_processors.begin(limits, prompt)
    for token in output:
        draft = logits_processors.follow(draft, token, END)
    outlook = logits_processors.outlook(limits, draft)
    if outlook.over:
        return None
    allowed = np.arange(2, V)
    seen = np.isin(allowed, prompt + output)[np.newaxis]
    rows = sampling.Rows(*map(tf.constant, sampling.rows([options])))
    few = np.array([logits], np.float32)[:, allowed]
    place = _choose(few, np.array([[noise]], np.float32), seen, outlook.bias[np.newaxis, allowed], rows)
    return int(allowed[int(place[0, 0])])


ids = st.lists(st.sampled_from([token for token in range(V) if token != END]), max_size=9)
# No sum of these is a multiple of a quarter: two logits are equal where the same was done to both, or never.
mixes = st.builds(
    Options,
    repetition_penalty=st.sampled_from([0.81, 1.0, 1.31]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.integers(0, V + 2),
    top_p=st.sampled_from([0.047, 0.4, 0.81, 1.0]),
    min_p=st.sampled_from([0.0, 0.03, 0.4]),
)
hosts = st.builds(
    HostOptions,
    no_repeat_ngram=st.integers(0, 4),
    presence_penalty=st.sampled_from([0.0, 0.7043, -0.3019]),
    frequency_penalty=st.sampled_from([0.0, 0.4011, -0.2003]),
)
biases = st.dictionaries(st.integers(2, V - 1), st.sampled_from([-math.inf, -1.3137, 2.1071]), max_size=5)


@settings(max_examples=300)
@given(st.builds(Drawing, logits(V), biases, ids.filter(bool), ids, st.floats(0, 0.999)), mixes, hosts)
def test_any_mix_of_options_is_applied_in_the_order_of_the_page(
    drawing: Drawing, options: Options, host: HostOptions
) -> None:
    unsampled = {0, 1}
    expected, near = oracle(drawing, options, host, unsampled)
    assume(near > 1e-5)
    logits, bias, prompt, output, noise = drawing
    assert chosen(logits, options, limited(host, bias, unsampled), prompt, output, noise) == expected


def test_what_is_forbidden_is_not_drawn_where_rounding_leaves_the_sum_below_the_noise() -> None:
    """The last id that is kept is taken; of those that are left, although top_k would keep more than there are."""
    limits = limited(HostOptions(), {5: -math.inf, 6: -math.inf}, {0, 1})
    almost_one = float(np.float32(1 - 2**-24))
    drawn = [chosen([0.1 * n] * V, Options(top_k=k), limits, [3], [], almost_one) for n in range(40) for k in (0, 4)]
    assert set(drawn) <= {2, 3, 4}


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 5))
def test_what_would_come_twice_is_just_what_brute_force_finds(text: list[int], n: int) -> None:
    found = logits_processors.repeats(np.array(text, np.int32), n).tolist()
    assert set(found) == {token for token in range(4) if repeated(text, token, HostOptions(no_repeat_ngram=n))}


def test_the_penalties_count_the_output_and_not_the_prompt() -> None:
    """Token 3 stands twice in the output, token 4 once, token 5 in the prompt alone."""
    draft = logits_processors.begin(limited(HostOptions()), [5, 5, 3])
    for token in (3, 4, 3):
        draft = logits_processors.follow(draft, token, END)
    bias = logits_processors.outlook(limited(HostOptions(presence_penalty=0.5, frequency_penalty=0.25)), draft).bias
    assert bias.tolist() == [0, 0, 0, -1.0, -0.75, 0, 0]


def test_behind_an_end_token_nothing_follows_and_no_option_is_to_blame() -> None:
    limits = limited(HostOptions(no_repeat_ngram=1), unsampled=(0, 1))
    draft = logits_processors.begin(limits, [3, 4, 5, 6])
    assert not logits_processors.outlook(limits, draft).over
    draft = logits_processors.follow(draft, END, END)
    assert logits_processors.outlook(limits, draft)[1:] == (True, "")


# Patterns, against Python's own

CHARACTERS = tokenizer.Tokenizer(vocabulary.train(recipe.Tokenizer(type="char"), lambda: iter(["ab \n"])))
PIECES = tokenizer.Tokenizer(
    vocabulary.train(recipe.Tokenizer(type="bpe", vocab_size=12), lambda: iter(["abab ab aab 字a abé 字字 " * 20]))
)
ALPHABET, LONGEST = "ab字é", 5
TEXTS = ["".join(text) for n in range(LONGEST + 1) for text in itertools.product(ALPHABET, repeat=n)]
PATTERNS = (
    "", "a", "a|ab", "ab|a", "(a|ab)(b|bab)?", "[ab字]{1,3}", "(é|a){0,4}", "(?:é|字a){1,2}", ".", "a??b?", "[^a]b",
    "(a字|b)é?", r"\w{2}", "(?i)AB?", "a{2}(b|字){0,2}", "^ab?$", "aé|a字",
)  # fmt: skip


def writable(words: tokenizer.Tokenizer, byte_pieces: bool) -> Any:
    """The ids that may be written: bool [V]."""
    mask = np.ones(words.vocab_size, bool)
    mask[[0, 1, 2]] = False
    if not byte_pieces:
        mask[tokenizer.FIXED : tokenizer.FIXED + tokenizer.BYTES] = False
    return mask


def spelled_by(words: tokenizer.Tokenizer, mask: Any) -> set[str]:
    """The characters of the alphabet that these pieces can spell, one by one."""
    one = {letter for letter in ALPHABET for token in np.flatnonzero(mask) if words.piece(int(token)) == letter}
    return set(ALPHABET) if mask[tokenizer.FIXED + 255] else one


@pytest.mark.parametrize("regex", PATTERNS)
@pytest.mark.parametrize("byte_pieces", [True, False])
@pytest.mark.parametrize("words", [CHARACTERS, PIECES], ids=["char", "bpe"])
def test_a_piece_is_allowed_if_and_only_if_a_match_can_go_on_with_it(
    words: tokenizer.Tokenizer, byte_pieces: bool, regex: str
) -> None:
    """Every way is walked that the alphabet has, byte by byte where a character has no piece."""
    mask = writable(words, byte_pieces)
    can = spelled_by(words, mask)
    matches = {text.encode() for text in TEXTS if re.fullmatch(regex, text) and set(text) <= can}
    if not matches:
        with pytest.raises(UserError, match="this model cannot generate a text that matches"):
            regex_mask.begin(regex, words, mask)
        return
    beginnings = {match[:n] for match in matches for n in range(len(match) + 1)}
    bytewise = {text.encode()[:n] for text in TEXTS if set(text) <= can for n in range(len(text.encode()) + 1)}
    todo, walked = [(b"", regex_mask.begin(regex, words, mask))], set[bytes]()
    while todo:
        text, match = todo.pop()
        assert regex_mask.complete(match) == (text in matches), text
        allowed = regex_mask.allowed(match)
        for token in np.flatnonzero(mask):
            longer = text + words.piece_bytes(int(token))
            if longer not in bytewise:  # of the alphabet's bytes other characters can be made too
                continue
            assert allowed[token] == (longer in beginnings), (text, longer)
            if allowed[token] and longer not in walked:
                walked.add(longer)
                todo.append((longer, regex_mask.follow(match, int(token))))
    assert walked | {b""} >= matches


def test_what_no_piece_can_finish_is_not_begun() -> None:
    match = regex_mask.begin("(a字|b)", CHARACTERS, writable(CHARACTERS, byte_pieces=False))
    assert [CHARACTERS.piece(int(token)) for token in np.flatnonzero(regex_mask.allowed(match)) if token > 259] == ["b"]


@pytest.mark.parametrize(
    ("regex", "said"),
    [
        ("(a", "unclosed group"),
        ("[", "unclosed character class"),
        (r"(a)\1", "backreferences are not supported"),
        ("a(?=b)", "look-around"),
        (r"\ba", "lookarounds not supported"),
        ("a\\", "it ends in a backslash"),
        ("a\n(", r"a\\n\(': unclosed group"),
        ("\ud800", "not UTF-8"),
        (r"a[^\s\S]", "this model cannot generate a text that matches"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_told_in_one_line(regex: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        logits_processors.compiled(HostOptions(regex=regex), CHARACTERS, (0, 1), END)
    assert str(told.value).startswith("--regex")
    assert "\n" not in str(told.value)


def wander(match: regex_mask.Match, letters: list[int | None], tokens: int) -> None:
    """Write letters at random, each of which has to be allowed."""
    for dice in np.random.default_rng(0).integers(0, len(letters), tokens):
        token = letters[dice]
        assert token is not None
        assert regex_mask.allowed(match)[token]
        match = regex_mask.follow(match, token)


def test_a_pattern_that_grows_too_large_under_way_is_told_in_one_line() -> None:
    match, ab = regex_mask.begin("([ab]*a[ab]{200}){50}", CHARACTERS, writable(CHARACTERS, False)), ["a", "b"]
    with pytest.raises(UserError, match=r"^--regex: the pattern exceeds a limit of \w+ \([^\n]+\); simplify it$"):
        wander(match, [CHARACTERS.id_of(letter) for letter in ab], 2000)


def test_without_the_engine_of_patterns_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"--regex: needs the package llguidance; pip install 'keras_lstmgen\[regex\]'"):
        logits_processors.compiled(HostOptions(regex="a"), CHARACTERS, (0, 1), END)


# Biases by name


def test_a_bias_is_for_a_token_by_its_spelling_or_its_id() -> None:
    space, a = CHARACTERS.id_of("▁"), CHARACTERS.id_of("a")
    words = (" =1.5", "a=-inf", "<0xE5>=2", f"#{NEWLINE}=-3", "</s>=-1", "<unk>=-1")
    fixed = logits_processors.compiled(HostOptions(logit_bias=words), CHARACTERS, (0, 1), END).fixed
    byte = tokenizer.FIXED + 0xE5
    assert {int(token): float(fixed[token]) for token in np.flatnonzero(fixed)} == {
        0: -math.inf, 1: -math.inf, 2: -1.0, 3: -3.0, byte: 2.0, space: 1.5, a: -math.inf,
    }  # fmt: skip


NEWLINE = tokenizer.NEWLINE


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("a", "give TOKEN=X or #ID=X"),
        ("=1", "give TOKEN=X or #ID=X"),
        ("a=x", "give TOKEN=X or #ID=X"),
        ("a=nan", "give TOKEN=X or #ID=X"),
        ("a=inf", "give TOKEN=X or #ID=X"),
        ("a=2e6", "from -1000000 to 1000000"),
        ("ab=1", "the vocabulary has no such token; give a bias to one of the pieces of this text instead: a b"),
        ("#9999=1", "there is no such id; give one below"),
        ("#" + "0" * 25 + "1" * 21 + "=1", "there is no such id; give one below"),
        ("<s>=1", "this model never generates '<s>'"),
        ("\udc80=1", "not UTF-8"),
    ],
)
def test_a_bias_that_cannot_be_used_is_told_in_one_line(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        logits_processors.compiled(HostOptions(logit_bias=(word,)), CHARACTERS, (0, 1), END)
    assert str(told.value).startswith("--logit-bias")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no_repeat_ngram", -1),
        ("presence_penalty", math.nan),
        ("presence_penalty", 2e6),
        ("frequency_penalty", -math.inf),
    ],
)
def test_a_number_out_of_range_names_its_option(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^--{name.replace('_', '-')}: {value} is out of range; give "):
        HostOptions(**{name: value})


# Texts


@pytest.fixture(scope="module")
def stream(trained: Path) -> run_directory.Run:
    """A model of characters, which has no end token to write."""
    return run_directory.load(trained)


@pytest.fixture(scope="module")
def lines(trained_lines: Path) -> run_directory.Run:
    """A model of documents in subwords, which ends its texts."""
    return run_directory.load(trained_lines)


def written(model: run_directory.Run, prompt: str = "", n: int = 40, **words: Any) -> list[Sample]:
    """Six texts under the options of the host."""
    limits = HostOptions(**words)
    return Generator(model).generate(prompt, GenerationConfig(n, Options(temperature=1.5), host=limits), seeds=range(6))


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["stream", "lines"])
def test_token_by_token_under_options_that_change_nothing_the_texts_are_the_same(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    model, options = request.getfixturevalue(fixture), Options(temperature=0.8, top_p=0.9, repetition_penalty=1.2)
    limits = HostOptions()
    many = Generator(model).generate("the ", GenerationConfig(40, options, stop=["zz"], host=limits), seeds=range(5))
    for one, other in zip(
        Generator(model).generate("the ", GenerationConfig(40, options, stop=["zz"]), seeds=range(5)), many, strict=True
    ):
        assert (one.text, one.tokens, one.finish_reason, one.note) == (
            other.text, other.tokens, other.finish_reason, other.note,
        )  # fmt: skip
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_run_of_n_tokens_of_prompt_and_text_comes_twice(
    stream: run_directory.Run, lines: run_directory.Run, n: int
) -> None:
    for model, prompt in ((stream, "These"), (lines, "moonwise")):  # runs that the prompt itself repeats may stay
        ended = 0
        for sample in written(model, prompt, 90, no_repeat_ngram=n):
            text = model.prompt_ids(prompt) + sample.tokens
            begins = len(text) - len(sample.tokens)
            runs = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
            assert all(runs.index(grams) == i for i, grams in enumerate(runs) if i + n > begins)
            ended += "--no-repeat-ngram" in sample.note
        if n == 1 and model is stream:
            assert ended == 6  # there are fewer than 90 characters


def test_a_text_ends_where_everything_is_forbidden_and_says_by_what(lines: run_directory.Run) -> None:
    """The pattern wants three times what the text may hold once, and forbids the end till then."""
    limits = HostOptions(regex="(on){3}", no_repeat_ngram=1, logit_bias=("</s>=-inf",))
    sample = Generator(lines).generate("", GenerationConfig(9, host=limits))[0]
    assert (sample.text, sample.finish_reason) == ("on", "stop")
    said = "all tokens are excluded by --no-repeat-ngram and --regex and --logit-bias"
    assert sample.note == f"{said}; the match of --regex is incomplete"


PHRASES = ("[a-z ]{5,12}", r"(the|a) \w+ (is|was) .{0,9}", r"\d{2}:\d{2}", "x?", "(?s:.{2}\n)*")


@pytest.mark.parametrize("regex", PHRASES)
def test_a_text_matches_its_pattern_or_says_that_it_is_unfinished(stream: run_directory.Run, regex: str) -> None:
    whole = 0
    for sample in written(stream, "The ", 30, regex=regex):
        matches = re.fullmatch(regex, sample.text) is not None
        assert matches == (sample.note == "")
        assert sample.note in ("", UNFINISHED)
        assert sample.finish_reason == "length" or matches
        whole += matches
    assert whole >= 3


def test_the_text_stops_where_the_pattern_can_only_end_and_an_end_token_comes_only_where_it_can(
    lines: run_directory.Run,
) -> None:
    for sample in written(lines, regex="(hi|on|te){2}|the"):
        assert (sample.finish_reason, sample.note) == ("stop", "")
        assert re.fullmatch("(hi|on|te){2}|the", sample.text)
        assert lines.metadata.end_id not in sample.tokens
    ended = [sample for sample in written(lines, regex="the(hi|on|te)+") if sample.finish_reason == "stop"]
    assert ended
    assert all(sample.tokens[-1] == lines.metadata.end_id for sample in ended)
    assert all(re.fullmatch("the(hi|on|te)+", sample.text) for sample in ended)


def test_a_match_that_the_limit_cuts_off_is_told(stream: run_directory.Run) -> None:
    for sample in written(stream, n=4, regex="[a-z]{5}"):
        assert (len(sample.tokens), sample.finish_reason, sample.note) == (4, "length", UNFINISHED)
    for sample in written(stream, n=5, regex="[a-z]{5}"):
        assert (len(sample.tokens), sample.finish_reason, sample.note) == (5, "stop", "")


def test_characters_without_a_piece_are_written_by_their_bytes(lines: run_directory.Run) -> None:
    assert lines.tokenizer.id_of("霜") is None
    for sample in written(lines, regex="(霜|地上){3}"):
        assert re.fullmatch("(霜|地上){3}", sample.text)
        assert len(sample.tokens) == 3 * sample.text.count("霜") + sample.text.count("地上")
    assert {len(sample.tokens) for sample in written(lines, regex="霜{2}")} == {6}


def test_a_bias_makes_a_token_come_and_minus_infinity_keeps_it_away(stream: run_directory.Run) -> None:
    assert {sample.text for sample in written(stream, n=5, logit_bias=("e=1000",))} == {"eeeee"}
    texts = "".join(sample.text for sample in written(stream, n=40, logit_bias=("e=-inf", "▁=-inf")))
    assert not set(texts) & {"e", " "}
    assert set("".join(sample.text for sample in written(stream, n=40))) >= {"e", " "}


def test_ids_that_training_never_saw_stay_unwritten_under_every_option(stream: run_directory.Run) -> None:
    texts = written(stream, n=60, presence_penalty=50.0, frequency_penalty=9.0, no_repeat_ngram=2, regex="(?s:.*)")
    assert not {token for sample in texts for token in sample.tokens} & set(stream.metadata.unsampled_ids)


def test_stop_strings_and_whole_characters_are_as_without_options(stream: run_directory.Run) -> None:
    limits = HostOptions(presence_penalty=0.1)
    free = Generator(stream).generate("", GenerationConfig(60, host=limits))[0].text
    emitted: list[str] = []
    stopped = Generator(stream).generate(
        "", GenerationConfig(60, stop=[free[30:33]], host=limits), emit=lambda _, text: emitted.append(text)
    )[0]
    assert (stopped.text, stopped.finish_reason) == (free[: free.index(free[30:33])], "stop")
    assert "".join(emitted) == stopped.text


# Log-probabilities


def test_log_probabilities_are_the_model_s_own_before_any_option(lines: run_directory.Run) -> None:
    limits = HostOptions(no_repeat_ngram=2)
    sample = Generator(lines).generate("the ", GenerationConfig(12, Options(temperature=0.5), host=limits), seeds=[3])[
        0
    ]
    told = loaded_model.token_logprobs(lines, decoding_loop.compile_step(lines.weights), "the ", sample.tokens, 4)
    prompt = lines.prompt_ids("the ")
    logits = np.asarray(lines.model(np.array([prompt + sample.tokens]), training=False))[0, len(prompt) - 1 : -1]
    expected = beam_search.log_softmax(logits)
    assert [line["position"] for line in told] == list(range(len(sample.tokens)))
    for line, token, row in zip(told, sample.tokens, expected, strict=True):
        assert (line["id"], line["token"]) == (token, lines.tokenizer.piece(token))
        assert line["logprob"] == pytest.approx(row[token], abs=1e-4)
        assert [top["logprob"] for top in line["top_logprobs"]] == pytest.approx(sorted(row)[:-5:-1], abs=1e-4)
        assert all(top["logprob"] == pytest.approx(row[top["id"]], abs=1e-4) for top in line["top_logprobs"])
    assert sum(line["logprob"] for line in told) == pytest.approx(sample.logprob, abs=1e-3)
    assert json.loads(json.dumps(told)) == told
