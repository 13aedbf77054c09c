"""Whether copying from the source pays: a recipe of pairs with attention, trained without and with a pointer.

    python -m benchmarks.pointer
    python -m benchmarks.pointer --epochs 6 --change model.units=256 'corpus.field=["1", "3"]' --name pointer_titles

Source: See, Liu and Manning, "Get To The Point: Summarization with Pointer-Generator Networks", 2017. At each step::

    g = sigmoid(h' w + b)
    p = g softmax(h' W + c) + (1 - g) (what the attention gives to each slot, to the id that was read there)

The first side is what ``keras-lstmgen train`` trains; the second has the same layers, seed, batches, epochs and rate.
The package has no pointer: this file is all there is of it.
"""

import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import measure
from benchmarks.measure import Table, publish
from benchmarks.workers import ROOT
from keras_lstmgen import corpus, evaluation, files, generation, measures, pairs, recipe, streams, tasks, training
from keras_lstmgen import run as runs
from keras_lstmgen.attention import Attention, attend, memory_size
from keras_lstmgen.callbacks import Pace, Validate, signals_end
from keras_lstmgen.checkpoint import Progress
from keras_lstmgen.encoding import Encoded
from keras_lstmgen.loss import Counted
from keras_lstmgen.model import Weights, cell, join_state, split_state, start_at, state_size, weights_of

RECIPE = ROOT / "pipelines" / "summary.toml"
GATE = 2.0  # b at the beginning: g = 0.88, so that the words come first
NEVER = 1e-30  # added to a probability of which the logarithm is taken
RUN = "run"  # the folder of the side without a pointer
ROWS = 64  # answers side by side
Gate = tuple[Any, Any]  # w, float32 [H, 1], and b, float32 [1]


def main(argv: Sequence[str] | None = None) -> int:
    """Train both, and measure each on the held-out pairs."""
    parser = measure.parser("pointer", __doc__)
    parser.add_argument("--recipe", type=Path, default=RECIPE, metavar="FILE", help="of pairs, with attention")
    parser.add_argument("--epochs", type=int, default=2, metavar="N", help="of both trainings")
    parser.add_argument("--change", nargs="+", default=[], metavar="KEY=VALUE", help="of the recipe, as TOML has it")
    parser.add_argument("--tokens", type=int, default=60, metavar="N", help="most in an answer")
    parser.add_argument("--sources", type=int, default=0, metavar="N", help="answer the first N alone; 0: all")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="where the first side is kept, or is already")
    parser.add_argument("--name", default="pointer", help="of the files of results")
    arguments = parser.parse_args(argv)
    settings = changed(recipe.load(arguments.recipe), arguments.epochs, arguments.change)
    with tempfile.TemporaryDirectory() as folder:
        place = arguments.runs or Path(folder)
        sides, rouge = compared(settings, place, arguments.tokens, arguments.sources)
    results = {
        "recipe": arguments.recipe.name,
        "epochs": arguments.epochs,
        "changes": arguments.change,
        "sources_answered": arguments.sources,
        "sides": sides,
        "rouge": rouge,
    }
    publish(arguments.name, results, tables(results), arguments.results)
    return 0


def changed(base: recipe.Recipe, epochs: int, changes: Sequence[str]) -> recipe.Recipe:
    """The recipe with so many epochs, whatever the clock says, and with ``["model.units=256"]``, for one."""
    fixed = {"training.epochs": epochs, "training.minutes": 0, "training.patience": 0}
    given = tomllib.loads("\n".join(changes))
    return recipe.override(
        base, fixed | {f"{table}.{key}": value for table in given for key, value in given[table].items()}
    )


def compared(settings: recipe.Recipe, place: Path, limit: int, most: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each side reached, and the ROUGE of its answers beside that of trivial ones."""
    references = tasks.by_source(corpus.pieces(settings.corpus, "validation"))
    sources = list(references)[: most or None]
    settings, encoded = training.prepare(settings, place)  # which chooses what the recipe leaves open
    plain = of_the_package(settings, place)
    sides = {"without": told(encoded, plain.weights, evaluation.scorer(plain.weights), reached(place / RUN))}
    answered = {"without": answers(plain, plain.weights, None, sources, limit)}
    model, history = trained(settings, encoded)
    weights = weights_of(model.plain)
    sides["with a pointer"] = told(encoded, weights, scorer(model), history)
    answered["with a pointer"] = answers(plain, weights, model.gate_now(), sources, limit)
    targets = [known[0] for known in references.values()]
    answered["first sentence of the source"] = [measures.first_sentence(source) for source in sources]
    answered["target of another source"] = (targets[-1:] + targets[:-1])[: len(sources)]
    asked = [references[source] for source in sources]
    return sides, {name: measures.rouge(texts, asked) for name, texts in answered.items()}


def of_the_package(settings: recipe.Recipe, place: Path) -> runs.Run:
    """The side without a pointer: trained, unless it is there."""
    if not (place / RUN).is_dir():
        training.train(settings, place, RUN)
    run = runs.load(place / RUN)
    if recipe.parse(run.metadata.recipe) != settings:
        raise SystemExit(f"{place / RUN}: was trained by another recipe; name another folder")
    return run


def reached(folder: Path) -> dict[str, Any]:
    """Nats a token of the held-out targets after each epoch, and the minutes of all."""
    rows = files.read_json(folder / "history.json")
    return {"minutes": rows[-1]["seconds"] / 60, "epochs_nats": [row["val_loss"] for row in rows]}


class Pointing(keras.Model):
    """The layers of a ``Sequential`` that ``training.compiled`` made, and the gate. It gives what the loss needs."""

    def __init__(self, plain: keras.Sequential) -> None:
        """Take the layers; add w and b."""
        super().__init__(name="pointing")
        self.plain = plain
        self.gate = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(GATE), name="gate")
        self.gate.build((None, plain.layers[-2].output.shape[-1]))
        self.counted = CountedMixture(self)

    def call(self, ids: Any, training: bool = False) -> tuple[Any, Any]:
        """Int32 [B, T] gives h' [B, T, H], and where each step looked among the T, [B, T, T]: all else is empty."""
        x, looks = ids, None
        for layer in self.plain.layers[:-1]:
            if isinstance(layer, Attention):
                memory = tf.zeros([tf.shape(ids)[0], layer.slots, memory_size(1)])
                x, _, looks = attend(layer.weights_now(), x, memory)
                looks = looks[:, :, layer.slots :]
            else:
                x = layer(x, training=training)
        return x, looks

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss of ``Counted``, of the mixture."""
        del training
        h, looks = y_pred
        return self.counted(y, with_mass(h, looks, x, y), sample_weight)

    def gate_now(self) -> Gate:
        """The weights of the gate."""
        return self.gate.kernel.value, self.gate.bias.value


class CountedMixture(Counted):
    """``Counted``, whose rows are h' and what the attention gives to the target: float32 [N, H + 1]."""

    def __init__(self, model: Pointing) -> None:
        """Take the model whose output and gate it is."""
        super().__init__(model.plain.layers[-1])
        self.model = model

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Give the negative log-likelihood [N] of ids [N]."""
        h, mass = y_pred[:, :-1], y_pred[:, -1]
        weights, bias = self.model.gate_now()
        gate = tf.squeeze(tf.matmul(h, weights) + bias, 1)
        written = tf.math.log_sigmoid(gate) - super().call(y_true, h)
        copied = tf.math.log_sigmoid(-gate) + tf.math.log(mass + NEVER)
        return -tf.reduce_logsumexp(tf.stack([written, copied]), axis=0)


def with_mass(h: Any, looks: Any, ids: Any, next_ids: Any) -> Any:
    """Append to h' [B, T, H] what the attention [B, T, T] gives to the places that hold the next id."""
    same = tf.cast(next_ids[:, :, tf.newaxis] == ids[:, tf.newaxis, :], tf.float32)
    return tf.concat([h, tf.reduce_sum(looks * same, axis=2, keepdims=True)], axis=2)


def trained(settings: recipe.Recipe, encoded: Encoded) -> tuple[Pointing, dict[str, Any]]:
    """Train the side with the pointer; its best epoch, as the package keeps it. Ctrl-C ends it, to be measured."""
    counts, part = streams.counts(encoded.train, encoded.tokenizer.vocab_size), settings.training
    examples, held_out = pairs.find(encoded.train), pairs.find(encoded.validation)
    plain = training.compiled(settings, counts)
    start_at(plain, counts)
    model = Pointing(plain)
    model.compile(plain.optimizer.from_config(plain.optimizer.get_config()), jit_compile=False)
    windows, call = pairs.batches(examples, part.batch_size), scorer(model)
    weights, pace = weights_of(plain), Pace(part, Progress(), windows)
    validate = Validate(lambda: pairs.total_nats(weights, held_out, call) / pairs.predicted(held_out), pace, np.inf)
    best = keras.callbacks.EarlyStopping("val_loss", patience=part.epochs, restore_best_weights=True)
    ds = pairs.dataset(examples, part.batch_size, part.window, part.epochs, part.seed, source_loss=part.source_loss)
    these, epochs = [pace, validate, best], {"epochs": part.epochs, "steps_per_epoch": windows}
    with signals_end(pace):
        history = model.fit(ds, **epochs, callbacks=these, shuffle=False, verbose=2)
    return model, {"minutes": pace.progress.seconds / 60, "epochs_nats": history.history["val_loss"]}


def scorer(model: Pointing) -> Callable[..., Any]:
    """What ``evaluation.scorer`` gives, of texts that begin with the call: there is no state."""

    @tf.function(reduce_retracing=True)
    def call(ids: Any, state: Any) -> tuple[Any, Any]:
        before, after = ids[:, :-1], ids[:, 1:]
        h, looks = model(before)
        rows = with_mass(h, looks, before, after)
        nats = model.counted.call(tf.reshape(after, [-1]), tf.reshape(rows, [-1, rows.shape[-1]]))
        return tf.reshape(-nats, tf.shape(after)), state

    return call


def told(encoded: Encoded, weights: Weights, call: Callable[..., Any], reached: Mapping[str, Any]) -> dict[str, Any]:
    """The loss of a side on the held-out targets, behind their sources and behind others."""
    held_out = pairs.find(encoded.validation)
    right, other = (pairs.total_nats(weights, part, call) for part in (held_out, pairs.shuffled(held_out)))
    tokens = pairs.predicted(held_out)
    return {"nats_per_token": right / tokens, "gain_of_the_right_source": (other - right) / tokens, **reached}


def answers(run: runs.Run, weights: Weights, gate: Gate | None, sources: Sequence[str], limit: int) -> list[str]:
    """The greedy answer to each source, of at most ``limit`` tokens; ``run`` has the tokenizer."""
    prompts = [run.prompt_ids(source + "\n") for source in sources]
    read, step, found = evaluation.scorer(weights), stepper(run, weights, gate), list[str]()
    for start in range(0, len(prompts), ROWS):
        part = prompts[start : start + ROWS]
        states = [read(np.array([ids], np.int32), tf.zeros((1, state_size(weights))))[1] for ids in part]
        texts = written(step, part, tf.concat(states, axis=0), weights.slots, limit, run.metadata.end_id)
        found += [run.tokenizer.decode(row) for row in texts]  # end tokens vanish
    return found


def written(
    step: Callable[..., Any], prompts: Sequence[list[int]], state: Any, M: int, limit: int, end: int
) -> np.ndarray[Any, Any]:
    """The tokens [B, limit] behind prompts of which all but the last token is read; behind an end are ends."""
    last = np.array([ids[-1] for ids in prompts], np.int32)
    slots = tf.constant([([0] * M + ids[:-1])[-M:] for ids in prompts], tf.int32)
    tokens = np.full((len(prompts), limit), end, np.int32)
    for t in range(limit):
        choice, state, slots = step(tf.constant(last), state, slots)
        last = np.where(last == end, end, choice.numpy())
        tokens[:, t] = last
        if (last == end).all():
            break
    return tokens


def stepper(run: runs.Run, weights: Weights, gate: Gate | None) -> Callable[..., Any]:
    """Read int32 [B], with the state and the ids of the slots [B, M]: the likeliest id, and both after it."""
    allowed = tf.constant(~generation.unsampled_mask(run), tf.float32)

    @tf.function(reduce_retracing=True)
    def call(ids: Any, state: Any, slots: Any) -> tuple[Any, Any, Any]:
        p, state, slots = next_token(weights, gate, ids, state, slots)
        return tf.argmax(p * allowed, axis=1, output_type=tf.int32), state, slots

    return call


def next_token(weights: Weights, gate: Gate | None, ids: Any, state: Any, slots: Any) -> tuple[Any, Any, Any]:
    """``model.watched_step`` with the mixture: probabilities [B, V], the state and the ids of the slots after it."""
    x, carried = tf.gather(weights.embedding, ids), []
    parts, memory = split_state(weights, state)
    for layer, h, c in zip(weights.cells, parts[::2], parts[1::2], strict=True):
        x, c, _ = cell(layer, x, h, c)
        carried += [x, c]
    assert weights.heads
    looked, memory, looks = attend(weights.heads, tf.expand_dims(x, 1), memory)
    x, slots = tf.squeeze(looked, 1), tf.concat([slots, ids[:, tf.newaxis]], axis=1)
    p = tf.nn.softmax(tf.matmul(x, weights.output, transpose_b=weights.tied) + weights.output_bias)
    if gate is not None:
        g = tf.sigmoid(tf.matmul(x, gate[0]) + gate[1])
        p = g * p + (1 - g) * scattered(tf.squeeze(looks, 1), slots, p.shape[1])
    return p, join_state(carried, memory), slots[:, 1:]


def scattered(looks: Any, slots: Any, V: int) -> Any:
    """What is given to each slot [B, N], summed by the ids that these hold [B, N]: [B, V]."""
    B = tf.shape(slots)[0]
    places = slots + V * tf.range(B)[:, tf.newaxis]
    sums = tf.math.unsorted_segment_sum(tf.reshape(looks, [-1]), tf.reshape(places, [-1]), B * V)
    return tf.reshape(sums, [-1, V])


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Both sides' loss, after each epoch and of the best, and ROUGE in percent beside the trivial answers'."""
    changes = "".join(f", {change}" for change in results["changes"])
    title = f"{results['recipe'].removesuffix('.toml')}, {results['epochs']} epochs{changes}"
    columns = ("side", "nats a token", "gain of the right source", "after each epoch", "minutes")
    asked = f", the first {results['sources_answered']} sources" if results["sources_answered"] else ""
    rouge = [[name, *(f"{100 * value:.1f}" for value in row.values())] for name, row in results["rouge"].items()]
    return [
        Table(title, columns, [[name, *_loss(side)] for name, side in results["sides"].items()]),
        Table(f"greedy answers{asked}", ("answers", "ROUGE-1", "ROUGE-2", "ROUGE-L"), rouge),
    ]


def _loss(side: Mapping[str, Any]) -> list[str]:
    epochs = " ".join(f"{nats:.3f}" for nats in side["epochs_nats"])
    figures = (f"{side[name]:.4f}" for name in ("nats_per_token", "gain_of_the_right_source"))
    return [*figures, epochs, f"{side['minutes']:.1f}"]


if __name__ == "__main__":
    sys.exit(main())
