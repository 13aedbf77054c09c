"""Each measure is what its source says: by hand, by its library, or by a slow way to the same number."""

import json
import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from keras_lstmgen.cli import command_line
from keras_lstmgen.config import recipe
from keras_lstmgen.data import example_batches, splits, token_cache
from keras_lstmgen.evaluation import (
    likelihood,
    naive_bayes,
    ngram_model,
    task,
    text_metrics,
    tfidf_retrieval,
)
from keras_lstmgen.evaluation.report import evaluate
from keras_lstmgen.generation import (
    batch_generation,
    beam_search,
    decoding_loop,
    logits_processors,
    sampling,
    text_generation,
)
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.recipe_measures import quatrains
from keras_lstmgen.training import trainer
from keras_lstmgen.utils.errors import UserError

texts = st.text("ab cd.,!é字 A", max_size=20)


# The measures themselves


def test_bleu_takes_all_targets_of_a_source_however_many_it_has() -> None:
    """By the formula of Papineni et al.: counts clipped by all targets, brevity by the closest lengths."""
    given = ["the cat sat on the mat today", "he came home late in the evening"]
    targets = [
        ["a cat sat on the mat", "the cat sat on a mat today", "on the mat sat the cat today"],
        ["he came home late at night"],
    ]
    right = guessed = [0] * 4
    for answer, known in zip(given, targets, strict=True):
        for n in range(1, 5):
            of = [Counter(tuple(text.split()[i : i + n]) for i in range(len(text.split()) - n + 1)) for text in known]
            ours = Counter(tuple(answer.split()[i : i + n]) for i in range(len(answer.split()) - n + 1))
            clipped = sum(min(times, max(other[gram] for other in of)) for gram, times in ours.items())
            right = [count + clipped * (place == n - 1) for place, count in enumerate(right)]
            guessed = [count + ours.total() * (place == n - 1) for place, count in enumerate(guessed)]
    length, closest = 7 + 7, 7 + 6
    precision = math.exp(sum(math.log(a / b) for a, b in zip(right, guessed, strict=True)) / 4)
    score = text_metrics.bleu(given, targets)
    assert score["bleu"] == pytest.approx(100 * precision * min(1, math.exp(1 - closest / length)))
    assert f"version:{sacrebleu.__version__}" in score["signature"]
    assert "nrefs:var" in score["signature"]
    one = sacrebleu.corpus_bleu(given, [[known[0] for known in targets]]).score
    assert text_metrics.bleu(given, [known[:1] for known in targets])["bleu"] == pytest.approx(one)


def test_rouge_is_the_library_s_f1_against_the_nearest_target() -> None:
    given, targets = ["the model learns fast", "a new loss"], [["we train models"], ["nothing", "a loss that is new"]]
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        best = [
            max(scorer.score(target, answer)[kind].fmeasure for target in known)
            for answer, known in zip(given, targets, strict=True)
        ]
        assert text_metrics.rouge(given, targets)[name] == pytest.approx(sum(best) / 2)
    # Without its stem: "new" and "loss", "a" too: 3 of 3 and 3 of 5.
    assert text_metrics.rouge(given[1:], targets[1:])["rouge_1"] == pytest.approx(2 * 1 * 0.6 / 1.6)


def test_the_first_sentence_ends_with_its_mark_and_not_within_a_number() -> None:
    assert (
        text_metrics.first_sentence("It is 3.5 % better, e.g. here. It wins! Or not.")
        == "It is 3.5 % better, e.g. here."
    )
    assert text_metrics.first_sentence("这是一。这是二。") == "这是一。"
    assert text_metrics.first_sentence("no mark") == "no mark"


def test_answers_match_after_squad_s_normalisation() -> None:
    assert text_metrics.normalized("  The U.S.A.,\tan  Area") == "usa area"
    assert text_metrics.normalized("Theory of a band") == "theory of band"
    found = text_metrics.exact_match(["the Beatles!", "John Lennon", "no"], [["Beatles"], ["x", "Lennon"], ["The"]])
    assert found == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx((1 + 2 * 1 * 0.5 / 1.5 + 0) / 3)}


@given(texts, texts)
def test_token_f1_is_the_harmonic_mean_of_precision_and_recall(answer: str, target: str) -> None:
    ours, theirs = text_metrics.normalized(answer).split(), text_metrics.normalized(target).split()
    same = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
    found = text_metrics.exact_match([answer], [[target]])["f1"]
    if not ours or not theirs:
        assert found == (ours == theirs)
    elif not same:
        assert found == 0
    else:
        precision, recall = same / len(ours), same / len(theirs)
        assert found == pytest.approx(2 * precision * recall / (precision + recall))


def test_recall_counts_answers_that_are_a_target_word_for_word() -> None:
    assert text_metrics.recall(
        ["Fine.", "fine.", "bye"], [["Well.", "Fine."], ["Fine."], ["see you"]]
    ) == pytest.approx(1 / 3)


def test_distinct_bigrams_are_counted_over_all_answers_and_in_any_script() -> None:
    assert text_metrics.distinct_2(["I do not know.", "I do not", "yes"]) == pytest.approx(3 / 5)
    assert text_metrics.distinct_2(["我不知道", "我不"]) == pytest.approx(3 / 4)
    assert text_metrics.distinct_2(["yes", ""]) == 0


@given(st.lists(texts, min_size=1, max_size=8), texts)
def test_the_most_similar_text_is_that_of_the_largest_cosine(known: list[str], asked: str) -> None:
    """Against vectors over all words."""
    every = sorted({word for text in known for word in text_metrics.words(text)})
    rarity = [
        1 + math.log((1 + len(known)) / (1 + sum(w in text_metrics.words(text) for text in known))) for w in every
    ]

    def vector(text: str) -> np.ndarray[Any, Any]:
        found = np.array([text_metrics.words(text).count(word) for word in every], float) * rarity
        return found / max(float(np.linalg.norm(found)), 1e-9)

    cosines = [float(vector(text) @ vector(asked)) for text in known]
    assert cosines[tfidf_retrieval.most_similar(known, [asked])[0]] == pytest.approx(max(cosines), abs=1e-6)


def test_of_equally_similar_texts_the_first_counts() -> None:
    known = ["who wrote Hamlet", "the red one", "the red one", "it"]
    assert tfidf_retrieval.most_similar(known, ["the red", "nothing else"]) == [1, 0]
    assert tfidf_retrieval.most_similar(["", "?"], ["the red"]) == [0]
    assert tfidf_retrieval.most_similar(known, []) == []


def test_the_judge_is_naive_bayes_over_words_and_pairs_of_words() -> None:
    known = naive_bayes.train([("spam", "buy now"), ("spam", "buy it"), ("ham", "it is here")])
    assert naive_bayes.features("New York, new") == ["new", "york", "new", "new york", "york new"]
    # spam: buy 2, now, it, "buy now", "buy it": 6; ham: it, is, here, "it is", "is here": 5; 9 features in all.
    found = naive_bayes.joint_log_likelihood(known, ["buy here", "it"])
    (_, spam), (ham, _) = found  # "buy here" is unknown as a pair
    assert spam == pytest.approx(math.log(2 / 3) + math.log(3 / 15) + math.log(1 / 15) + math.log(1 / 15))
    assert ham == pytest.approx(math.log(1 / 3) + math.log(2 / 14))
    assert naive_bayes.predict(known, ["buy now", "is here"]) == ["spam", "ham"]
    assert naive_bayes.predict(known, []) == []


def test_texts_without_words_train_no_judge() -> None:
    with pytest.raises(UserError, match=r"'kind' needs words in the training text"):
        naive_bayes.train([("spam", "?"), ("ham", "")])


# Counted characters


def test_characters_are_counted_and_interpolated_as_witten_and_bell_do() -> None:
    """By hand: of "abab" a stands twice, b twice; behind a come b, b; behind b comes a."""
    counts = ngram_model.count(["aba", "b"])
    unseen = 1 / 0x110000
    b = (2 + 2 * unseen) / (4 + 2)
    assert ngram_model.probabilities(counts, "", "b")[0] == pytest.approx(b)
    behind_a = (2 + 1 * b) / (2 + 1)
    assert ngram_model.probabilities(counts, "a", "b", 2) == pytest.approx([b, behind_a])
    behind_ba = (1 + 1 * behind_a) / (1 + 1)
    assert ngram_model.probabilities(counts, "xba", "b", 4) == pytest.approx([b, behind_a, behind_ba, behind_ba])
    assert ngram_model.probabilities(counts, "ab", "é", 3) == pytest.approx(
        [2 * unseen / 6, (2 * unseen / 6) / 2, (2 * unseen / 6) / 2 / 2]
    )
    of_b_and_a = [-math.log(p) for p in (b, behind_a)], [-math.log((2 + 2 * unseen) / 6), -math.log((1 + b) / 2)]
    assert ngram_model.cross_entropy(counts, ["a", "ba"], 2) == pytest.approx(np.mean(of_b_and_a, axis=0))


@given(st.lists(st.text("abc\n字"), max_size=6), st.text("abc\n字"))
def test_counts_do_not_depend_on_where_a_text_is_cut_and_probabilities_sum_to_one(
    parts: list[str], before: str
) -> None:
    counts = ngram_model.count(parts)
    assert counts == ngram_model.count(["".join(parts)])
    each = np.array([ngram_model.probabilities(counts, before, character) for character in "abc\n字"])
    unseen = np.array(ngram_model.probabilities(counts, before, "z"))
    np.testing.assert_allclose(each.sum(axis=0) + (0x110000 - 5) * unseen, 1, rtol=1e-9)


def test_a_run_on_one_text_is_held_against_them(trained: Path, text: Path) -> None:
    model = run_directory.load(trained)
    found = evaluate(model, [], 0, 1, recipe.Evaluate(measures=("ngram",)))["measures"]["ngram"]
    whole = text.read_text(encoding="utf-8")
    wanted = ngram_model.cross_entropy(ngram_model.count([whole[:10_800]]), [whole[10_800:]])
    assert list(found) == [f"up to {n} characters" for n in range(1, ngram_model.MAX_ORDER + 1)]
    assert [row["nats_per_character"] for row in found.values()] == pytest.approx(wanted)
    assert 1 < min(wanted) < wanted[0] < 4


# Verses


FIVE = "白日依山盡，黃河入海流。欲窮千里目，更上一層樓。"
SEVEN = "朝辭白帝彩雲間，千里江陵一日還！兩岸猿聲啼不住，輕舟已過萬重山？"


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (FIVE, ("流", "樓")),
        (SEVEN, ("還", "山")),
        (FIVE + "\n", ("流", "樓")),
        (FIVE[:-1], None),
        (FIVE[:18], None),
        (FIVE + FIVE[:6], None),
        (FIVE.replace("黃河", "黃"), None),
        (FIVE.replace("日", ""), None),
        (FIVE[:12] + SEVEN[16:], None),
        ("山盡，海流。里目，層樓。", None),
        ("", None),
    ],
)
def test_a_quatrain_has_four_verses_of_five_or_seven(text: str, ends: tuple[str, str] | None) -> None:
    assert quatrains.verse_ends(text) == ends


def poem(one: str, other: str) -> str:
    return f"山山山山山，山山山山{one}。山山山山山，山山山山{other}。"


def test_characters_rhyme_that_a_chain_of_pairs_joins_each_seen_often_enough() -> None:
    known = (
        [poem("甲", "乙")] * 2
        + [poem("丙", "乙")] * 2
        + [poem("丁", "戊")] * 2
        + [poem("丁", "甲"), poem("己", "己")] * 1
    )
    classes = quatrains.rhyme_classes(known)
    assert set(classes) == set("甲乙丙丁戊")
    assert quatrains.is_rhyme(classes, "甲", "丙")
    assert not quatrains.is_rhyme(classes, "甲", "丁")
    assert not quatrains.is_rhyme(classes, "甲", "甲")
    assert not quatrains.is_rhyme(classes, "己", "庚")
    assert quatrains.is_rhyme(quatrains.rhyme_classes(known, min_poems=1), "丙", "戊")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_rhymes_are_the_connected_parts_of_the_pairs(made: list[tuple[int, int]]) -> None:
    classes = quatrains.rhyme_classes((poem(chr(0x4E00 + a), chr(0x4E00 + b)) for a, b in made), min_poems=1)
    joined = np.eye(10, dtype=bool)
    for a, b in made:
        joined[a, b] = joined[b, a] = True
    for _ in range(10):
        joined = joined @ joined
    for a in range(10):
        for b in range(10):
            assert quatrains.is_rhyme(classes, chr(0x4E00 + a), chr(0x4E00 + b)) == (a != b and joined[a, b])


def test_the_form_of_poems_is_a_share_of_all_of_them_and_chance_takes_other_ends() -> None:
    classes = quatrains.rhyme_classes([poem("甲", "乙"), poem("丙", "丁")] * 2)
    poems = [poem("甲", "乙"), "no poem", poem("丙", "丁"), poem("甲", "丙")]
    assert quatrains.form(poems, classes) == {"four_equal_verses": 0.75, "rhyming": 0.5}
    # Ends of fourth verses move on by one: (甲, 丙), (丙, 乙), (甲, 丁).
    assert quatrains.chance_of_rhyme(poems, classes) == 0
    assert quatrains.chance_of_rhyme([poem("甲", "丁"), poem("丙", "乙")], classes) == 1


# On a run


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that answers with the second word of its source, in some other words too where that is red."""
    folder = tmp_path_factory.mktemp("pairs")
    names = ["red", "blue", "green", "white"]
    lines = [f"{a} {b} {c}\t{b}" for a in names for b in names for c in names]
    lines = [other for line in lines for other in ([line, f"{line} it is"] if line.endswith("red") else [line])]
    (folder / "colours.tsv").write_text("\n".join(lines), encoding="utf-8")
    return small(folder, {
        "corpus.source": [str(folder / "colours.tsv")], "corpus.documents": "pairs", "tokenizer.type": "word",
        "model.attention": 8, "training.epochs": 30, "corpus.validation_fraction": 0.25,
    })  # fmt: skip


@pytest.fixture(scope="module")
def headlines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two kinds of lines."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, words in {"fruit": ["apple", "pear", "plum", "fig"], "tool": ["saw", "file", "axe", "drill"]}.items():
        lines = [f"{a} {b} {c}" for a in words for b in words for c in words]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return small(folder, {
        "corpus.source": [str(folder / "fruit.txt"), str(folder / "tool.txt")], "corpus.documents": "lines",
        "corpus.labels": ["sweet", "hard"], "tokenizer.type": "word", "evaluate.measures": ["kind"],
    })  # fmt: skip


@pytest.fixture(scope="module", params=[(), ("poem",)], ids=["documents", "labelled"])
def poems(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on poems of two rhymes; one writes them as its documents, one when it is asked for a poem."""
    folder = tmp_path_factory.mktemp("poems")
    lines = [poem(a, b) for rhyme in ("甲乙丙", "丁戊己") for a in rhyme for b in rhyme if a != b]
    (folder / "poems.txt").write_text("\n".join(lines * 3), encoding="utf-8")
    return small(folder, {
        "corpus.source": [str(folder / "poems.txt")], "corpus.documents": "lines",
        "corpus.validation": [str(folder / "poems.txt")], "corpus.labels": list(request.param),
    })  # fmt: skip


def small(folder: Path, values: dict[str, Any]) -> Path:
    sizes = {
        "model.embedding_size": 8, "model.units": 24, "model.layers": 1, "model.dropout": 0.0,
        "training.batch_size": 10, "training.epochs": 15, "training.learning_rate": 0.02, "training.patience": 0,
    }  # fmt: skip
    settings = recipe.override(recipe.Recipe(), {**sizes, **values})
    return trainer.train(settings, folder / "runs", "small").folder


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw few samples."""
    monkeypatch.setattr(task, "SAMPLES", 20)
    monkeypatch.setattr(batch_generation, "BATCH_SIZE", 7)


def test_answers_side_by_side_are_those_of_each_source_alone(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_generation, "BATCH_SIZE", 4)
    model = run_directory.load(colours)
    asked = ["red", "blue green white", "white red red blue green", "grey", "red\nblue white", "green"] * 2
    found = batch_generation.greedy_answers(model, asked, 6)
    generator, greedy = Generator(model), sampling.Options(temperature=0)
    for source, answer in zip(asked, found, strict=True):
        (alone,) = generator.generate(source + "\n", GenerationConfig(6, greedy))
        assert answer == alone.text, source
    assert len(set(found)) > 1


def test_prompts_stand_at_the_right_end() -> None:
    ids, first = batch_generation.pad_left([[1, 5, 3], [1, 3]])
    assert ids[:, 1:].tolist() == [[5, 3], [1, 3]]
    assert first.tolist() == [[0], [1]]


def test_the_loss_behind_another_source_tells_what_the_right_one_gives(colours: Path, tmp_path: Path) -> None:
    model = run_directory.load(colours)
    report = evaluate(model, [], 0, 5)
    loss, counts = report["loss"], report["counts"]
    settings = recipe.load(colours / run_directory.RECIPE).corpus
    token_cache.encode_split(settings, "validation", model.tokenizer, tmp_path / "ids", "<i4")
    found = example_batches.find_pairs(np.fromfile(tmp_path / "ids", "<i4"))
    call = likelihood.scorer(model.weights)
    right, other = (
        likelihood.examples_nll(model.weights, part, call)
        for part in (found, example_batches.with_other_sources(found))
    )
    assert counts["documents"] == example_batches.count(found)
    assert counts["tokens"] == example_batches.target_tokens(found)
    assert loss["nats_per_token"] == pytest.approx(right / counts["tokens"])
    assert loss["nats_per_token_behind_another_source"] == pytest.approx(other / counts["tokens"])
    assert loss["gain_of_the_right_source"] == pytest.approx((other - right) / counts["tokens"])
    assert loss["gain_of_the_right_source"] > 0.5
    metrics = model.metadata.metrics["validation"]
    assert {name: loss[name] for name in metrics} == pytest.approx(metrics, rel=1e-3)


def test_a_source_is_exchanged_for_one_that_differs() -> None:
    ids = [token for a, b in [(5, 9), (5, 10), (6, 11), (7, 12), (7, 13)] for token in (1, a, 3, b, 2)]
    other = example_batches.with_other_sources(example_batches.find_pairs(np.array(ids, np.int32)))
    assert [int(other.ids[at + 1]) for at in other.starts[:-1]] == [7, 7, 5, 6, 6]
    assert [int(other.ids[at + 1]) for at in other.targets] == [9, 10, 11, 12, 13]
    same = example_batches.find_pairs(np.array([1, 5, 3, 9, 2] * 3, np.int32))
    np.testing.assert_array_equal(example_batches.with_other_sources(same).ids, same.ids)


def test_another_file_of_pairs_is_measured_instead(colours: Path, tmp_path: Path) -> None:
    (tmp_path / "other.tsv").write_text("red blue green\tblue\nblue red blue\tred\n", encoding="utf-8")
    report = evaluate(run_directory.load(colours), [str(tmp_path / "other.tsv")], 3, 5)
    assert report["counts"]["documents"] == 2
    assert report["samples"]["sources"] == ["red blue green", "blue red blue", "red blue green"]


def test_samples_of_pairs_are_answers_to_held_out_sources(colours: Path) -> None:
    model = run_directory.load(colours)
    found = evaluate(model, [], 3, 5)["samples"]
    settings = recipe.load(colours / run_directory.RECIPE).corpus
    sources = list(dict.fromkeys(text.split("\n")[0] for text in splits.pieces(settings, "validation")))
    assert found["sources"] == sources[:3]
    for seed, source in enumerate(sources[:3]):
        (sample,) = Generator(model).generate(source, GenerationConfig(5), seeds=[seed])
        assert found["texts"][seed] == sample.text
    targets = {text.split("\n")[1] for text in splits.pieces(settings, "train")}
    assert any(found["longest_copy"] in target for target in targets)
    assert found["lines_seen_in_training"] == sum(text in targets for text in found["texts"])


def test_all_measures_of_answers_are_reported_and_shown(colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--evaluate.measures", "bleu", "rouge", "exact_match", "recall", "distinct_2", "--evaluate.beams", "3"]
    assert command_line.main(["evaluate", str(colours), "--samples", "0", "--sample-tokens", "6", *words]) == 0
    out = capsys.readouterr().out
    found = json.loads((colours / "evaluation.json").read_text(encoding="utf-8"))["measures"]
    assert list(found) == ["bleu", "rouge", "exact_match", "recall", "distinct_2"]
    model, settings = run_directory.load(colours), recipe.load(colours / run_directory.RECIPE).corpus
    known = task.by_source(splits.pieces(settings, "validation"))
    greedy = batch_generation.greedy_answers(model, list(known), 6)
    step, limits = (
        decoding_loop.compile_step(model.weights),
        text_generation.compile_constraints(model, logits_processors.HostOptions()),
    )
    best = [
        text_generation.search(model, step, source, beam_search.BeamSearchConfig(3, 0.0, 6), constraints=limits)[0].text
        for source in known
    ]
    training_pairs = [text.split("\n") for text in splits.pieces(settings, "train")]
    nearest = tfidf_retrieval.most_similar([source for source, _ in training_pairs], list(known))
    likened = [training_pairs[number][1] for number in nearest]
    rows = {"greedy": greedy, "3 beams": best, "target of the most similar source": likened}
    assert found["bleu"] == {name: text_metrics.bleu(texts, list(known.values())) for name, texts in rows.items()}
    assert set(found["rouge"]) == {
        "greedy", "3 beams", "first sentence of the source", "target of another source",
    }  # fmt: skip
    frequent = Counter(target for _, target in training_pairs).most_common(1)[0][0]
    exact = found["exact_match"]
    assert exact["greedy"] == pytest.approx(text_metrics.exact_match(greedy, list(known.values())))
    constant = text_metrics.exact_match([frequent] * len(known), list(known.values()))
    assert exact["most frequent target"] == pytest.approx(constant)
    assert exact["greedy"]["exact_match"] > exact["most frequent target"]["exact_match"]
    assert found["recall"]["greedy"]["training_sources"] == len({source for source, _ in training_pairs})
    assert found["recall"]["greedy"]["recall"] > 0.8
    assert set(found["distinct_2"]) == {"greedy", "3 beams", "targets"}
    assert f"{found['bleu']['greedy']['bleu']:,.4f}" in out
    assert f"signature: {found['bleu']['greedy']['signature']}" in out


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_samples_are_judged_by_kind_beside_held_out_documents(headlines: Path) -> None:
    model = run_directory.load(headlines)
    report = evaluate(model, [], 3, 12)
    assert report["samples"]["sources"] == ["sweet", "hard", "sweet"]
    found = report["measures"]["kind"]
    assert list(found) == ["sweet, generated", "sweet, held out", "hard, generated", "hard, held out"]
    drawn = [sample.text for sample in Generator(model).generate("hard", GenerationConfig(12), seeds=range(20))]
    settings = recipe.load(headlines / run_directory.RECIPE).corpus
    known = [text.split("\n") for text in splits.pieces(settings, "train")]
    tools = {"saw", "file", "axe", "drill"}
    likely = [Counter(word in tools for word in text.split()).most_common(1)[0][0] for text in drawn]
    assert found["hard, generated"]["of_the_kind"] == pytest.approx(sum(likely) / 20, abs=0.1)
    assert found["hard, generated"]["in_training"] == sum(text in [b for _, b in known] for text in drawn) / 20
    assert found["sweet, held out"]["of_the_kind"] == found["hard, held out"]["of_the_kind"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_poems_are_held_against_their_form(poems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--samples", "0", "--sample-tokens", "40", "--evaluate.measures", "verses"]
    assert command_line.main(["evaluate", str(poems), *words]) == 0
    assert "four equal verses" in capsys.readouterr().out
    found = json.loads((poems / "evaluation.json").read_text(encoding="utf-8"))["measures"]["verses"]
    prompt = "".join(recipe.load(poems / run_directory.RECIPE).corpus.labels)
    drawn = [
        sample.text
        for sample in Generator(run_directory.load(poems)).generate(prompt, GenerationConfig(40), seeds=range(20))
    ]
    assert found["generated"]["poems"] == 20
    assert found["generated"]["four_equal_verses"] == sum(quatrains.verse_ends(text) is not None for text in drawn) / 20
    assert found["held out"] == {"poems": 36, "four_equal_verses": 1.0, "rhyming": 1.0}
    assert found["rhyme table"] == {"characters": 6, "rhymes": 2}


# What cannot be measured


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"evaluate.measures": ["bleu"]}, r"evaluate\.measures: 'bleu' needs pairs of source and target"),
        (
            {"evaluate.measures": ["ngram"], "corpus.documents": "lines"},
            r"'ngram' needs corpus\.documents = 'stream'",
        ),
        ({"evaluate.measures": ["verses"]}, r"'verses' needs documents that are poems"),
        ({"evaluate.measures": ["kind"], "corpus.documents": "pairs"}, r"'kind' needs corpus\.labels"),
        ({"evaluate.measures": ["meteor"]}, r"evaluate\.measures: 'meteor' is not one of bleu, rouge, "),
        ({"evaluate.beams": -1}, r"evaluate\.beams: -1 is out of range"),
    ],
)
def test_a_measure_that_does_not_fit_the_corpus_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        recipe.override(recipe.Recipe(), values)


@pytest.mark.parametrize(
    ("measure", "module", "package"),
    [
        ("bleu", "sacrebleu", "sacrebleu"),
        ("rouge", "rouge_score", "rouge_score"),
        ("exact_match", "sklearn", "scikit-learn"),
    ],
)
def test_a_missing_library_is_one_line_before_anything_is_measured(
    colours: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    measure: str,
    module: str,
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    assert command_line.main(["evaluate", str(colours), "--evaluate.measures", "distinct_2", measure]) == 2
    said = f"evaluate.measures: '{measure}' needs the package {package}; pip install 'keras_lstmgen[measures]'"
    assert capsys.readouterr().err == f"keras-lstmgen: {said}\n"


@pytest.mark.slow
def test_texts_of_kinds_are_given_for_each(headlines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["evaluate", str(headlines), "one.txt"]) == 2
    said = "one.txt: give one text for each label in this order: sweet, hard (corpus.labels)"
    assert capsys.readouterr().err == f"keras-lstmgen: {said}\n"


def test_measures_that_read_the_training_text_say_so_where_it_is_gone(colours: Path) -> None:
    model = run_directory.load(colours)
    gone = replace(model.recipe, corpus=replace(model.recipe.corpus, source=("gone.txt",)))
    model = model._replace(recipe=gone)
    asked = recipe.Evaluate(measures=("rouge", "recall"))
    with pytest.raises(UserError, match=r"gone\.txt: .*; .* and give --evaluate\.measures without recall$"):
        evaluate(model, [], 0, 5, asked)
