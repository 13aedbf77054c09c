"""Tokenize a corpus in parallel with Apache Beam.

The module ``partition`` divides the corpus into numbered parts. Workers read their parts from the files, and send each
other only counts, hashes and sampled lines. Shard n of a split contains the ids of part n. The concatenation
of the shards of a split contains the ids that ``token_cache.encode`` would write. The number of workers does not change
these ids.

    parts → without duplicates (optional) → counted symbols or sampled lines → vocabulary
                       └───────────────────────────────────────────────────────────┴→ shards
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam import pvalue
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.transforms import combiners

from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, sources, splits, token_cache
from keras_lstmgen.files import remote
from keras_lstmgen.files.folders import MANIFEST
from keras_lstmgen.preparation import output_folder, partition
from keras_lstmgen.preparation.partition import Part
from keras_lstmgen.system import cpu
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.tokenizers import vocabulary
from keras_lstmgen.tokenizers.tokenizer import Tokenizer
from keras_lstmgen.utils.errors import UserError

RESULTS = "results"  # name of a temporary file with a line of JSON for each shard
SAFE_PATH = "PYTHONSAFEPATH"
LOCAL = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
# Matches the message of a UserError of a worker inside the message of a runner.
WORKER_ERROR = re.compile(r"UserError: (.*?)(?: \[while running .*)?$", re.MULTILINE)


def prepare(
    settings: recipe.Recipe, output: Path | str, options: Sequence[str], report: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Tokenize and write a prepared corpus. Memory use depends on the size of a part, not on the size of the corpus.

    Args:
        settings: the recipe. Only its tables ``corpus`` and ``tokenizer`` are used.
        output: a new folder or address. It is removed if the preparation fails.
        options: command line options of Beam. By default, the local runner uses all cores.
        report: function that is called once a second with a text that describes the progress.

    Returns:
        The manifest of the prepared corpus, as written to ``prepared.json``.

    Raises:
        UserError: if the text, the recipe or an option is invalid, or if the output exists.
    """
    vocabulary.check(settings.tokenizer)
    settings = replace(settings, corpus=sources.spool(settings.corpus))
    parts = partition.plan(settings.corpus)
    chosen = _options(options, len(parts))
    with output_folder.new_folder(str(output)) as folder:
        with _progress_reported(folder, len(parts), report):
            _run(settings, parts, folder, chosen)
        manifest = _manifest(replace(settings, corpus=sources.with_absolute_paths(settings.corpus)), folder)
        output_folder.write(f"{folder}/{MANIFEST}", json.dumps(manifest, indent=2, ensure_ascii=False).encode())
    return manifest


def _options(given: Sequence[str], parts: int) -> PipelineOptions:
    """Return the options of Beam.

    By default, Beam uses the local runner with one process for each core, but with at most one process for each part.
    """
    workers = min(cpu.available(), parts)
    local = [f"--runner={LOCAL}", f"--direct_num_workers={workers}"]
    local += ["--direct_running_mode=multi_processing"] if workers > 1 else []
    if any(word.startswith("--runner") for word in given):
        return PipelineOptions(given)  # unknown options are allowed, because the job server of a runner may know them
    options = PipelineOptions([*local, *given])
    if unknown := _parsed(options, retain_unknown_options=True).keys() - _parsed(options).keys():
        raise UserError(f"--{min(unknown)}: the local runner of Apache Beam has no such option")
    return options


def _parsed(options: PipelineOptions, **values: bool) -> dict[str, Any]:
    """Return the values of options by name, or raise UserError if Beam rejects the options."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            return dict(options.get_all_options(**values))
        except SystemExit as error:
            reason = errors.getvalue().strip().rpartition("error: ")[2]
            raise UserError(f"invalid options for Apache Beam: {reason}") from error


@contextlib.contextmanager
def _progress_reported(folder: str, parts: int, report: Callable[[str], None]) -> Iterator[None]:
    """Report the number of written shards every second until the context ends."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1):
            shards = sum(1 for _ in Path(folder).glob("train-*.ids"))  # 0 if the folder is an address
            report(f"{shards:,} of about {parts:,} shards" if shards else "reading the corpus, training a vocabulary")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _run(settings: recipe.Recipe, parts: list[Part], folder: str, options: PipelineOptions) -> None:
    """Run the pipeline and wait until it ends.

    The log of the local runner is discarded, because it only reports that processes start and end.

    Raises:
        UserError: if a worker or the runner fails.
    """
    is_local = options.view_as(StandardOptions).runner == LOCAL
    try:
        with captured_stderr(show_on_failure=False) if is_local else contextlib.nullcontext(), _safe_path():
            pipeline = beam.Pipeline(options=options)
            _build(pipeline, settings, parts, folder)
            pipeline.run().wait_until_finish()
    except Exception as error:  # runners have no common error class; their message contains the error of the worker
        messages = WORKER_ERROR.findall(f"{type(error).__name__}: {error}")
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            messages[-1] if messages else f"Apache Beam could not run the pipeline: {reason[-1]}"
        ) from error


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Set an environment variable so that Python processes of the runner import nothing from the working directory."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SAFE_PATH]
        else:
            os.environ[SAFE_PATH] = before


def _build(pipeline: Any, settings: recipe.Recipe, plan: list[Part], folder: str) -> None:
    """Add all steps to a pipeline: create parts, train a vocabulary, write shards, and describe each shard in JSON."""
    parts = pipeline | "parts" >> beam.Create(plan) | "deal" >> beam.Reshuffle()
    if settings.corpus.documents == "stream":
        counted = parts | "characters" >> beam.Map(partition.measure, settings.corpus)
        once = pipeline | "once" >> beam.Create([None])
        laid = once | "lay out" >> beam.FlatMap(partition.cut_stream, pvalue.AsDict(counted), plan, settings.corpus)
        parts = laid | "deal again" >> beam.Reshuffle()
    if settings.corpus.unique:
        parts = _each_once(parts, settings.corpus)
    model = (_count if settings.tokenizer.type in vocabulary.COUNTED else _learn)(parts, settings)
    shards = parts | "encode" >> beam.FlatMap(_encode, pvalue.AsSingleton(model), settings, folder)
    lines = shards | "tell" >> beam.Map(json.dumps)
    _ = lines | "write" >> beam.io.WriteToText(f"{folder}/{RESULTS}", num_shards=1, shard_name_template="")
    _ = model | "save" >> beam.Map(functools.partial(output_folder.write, f"{folder}/{prepared_corpus.TOKENIZER}"))


def _each_once(parts: Any, settings: recipe.Corpus) -> Any:
    """Set ``kept`` of all parts, so that only one of several equal documents is used."""
    first = parts | "hash" >> beam.FlatMap(_keys, settings) | "first" >> beam.CombinePerKey(min)
    kept = first | "where" >> beam.Values() | "by part" >> beam.GroupByKey()
    both = {"part": parts | "number" >> beam.Map(_numbered), "kept": kept}
    return both | "join" >> beam.CoGroupByKey() | "keep" >> beam.Map(_keep)


def _keys(part: Part, settings: recipe.Corpus) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """For each document, yield a hash of its split and text, and the indices of the part and of the document."""
    for number, document in enumerate(splits.documents(settings, part.sources)):
        side = part.split or splits.split_of(document, settings)
        yield side.encode() + splits.document_key(document), (part.number, number)


def _numbered(part: Part) -> tuple[int, Part]:
    """Return the index of a part and the part itself, because Beam needs a key for a join."""
    return part.number, part


def _keep(joined: tuple[int, dict[str, Any]]) -> Part:
    """Return a part with ``kept`` set to the indices of its documents that are not duplicates."""
    [part] = joined[1]["part"]
    return replace(part, kept=frozenset(chain.from_iterable(joined[1]["kept"])))


def _count(parts: Any, settings: recipe.Recipe) -> Any:
    """Add the steps that train a vocabulary of type char or word: count symbols and keep the most frequent ones."""
    counts = parts | "symbols" >> beam.FlatMap(_symbols, settings) | "add" >> beam.CombinePerKey(sum)
    total = counts | "counts" >> beam.Values() | "total" >> beam.CombineGlobally(sum)
    limit = vocabulary.max_symbols(settings.tokenizer)
    ranked = counts | "rank" >> combiners.Top.Of(limit, key=vocabulary.rank, reverse=True)
    return ranked | "vocabulary" >> beam.Map(_counted, pvalue.AsSingleton(total), settings)


def _symbols(part: Part, settings: recipe.Recipe) -> Iterable[tuple[str, int]]:
    """For each symbol in the training text of a part, return the symbol and its number of occurrences."""
    texts = functools.partial(partition.texts, part, settings.corpus, "train")
    return vocabulary.count_symbols(settings.tokenizer.type, texts).items()


def _counted(ranked: list[tuple[str, int]], total: int, settings: recipe.Recipe) -> bytes:
    """Return a vocabulary of type char or word. The arguments are in the order that Beam needs."""
    return vocabulary.train_from_counts(settings.tokenizer, ranked, total)


def _learn(parts: Any, settings: recipe.Recipe) -> Any:
    """Add the steps that train a vocabulary of type bpe or unigram.

    The vocabulary is trained in one process on the same lines that ``vocabulary.train`` samples.
    """
    lines = parts | "lines" >> beam.Map(_line_count, settings)
    once = parts.pipeline | "once more" >> beam.Create([None])
    chosen = once | "choose" >> beam.FlatMap(_choose, pvalue.AsDict(lines))
    both = {"part": parts | "numbers" >> beam.Map(_numbered), "chosen": chosen}
    sample = both | "join lines" >> beam.CoGroupByKey() | "sample" >> beam.FlatMap(_chosen_lines, settings)
    return sample | "gather" >> combiners.ToList() | "vocabulary" >> beam.Map(_learned, settings)


def _lines(part: Part, settings: recipe.Recipe) -> Iterator[str]:
    """Yield the lines of the training text of a part."""
    return chain.from_iterable(map(vocabulary.short_lines, partition.texts(part, settings.corpus, "train")))


def _line_count(part: Part, settings: recipe.Recipe) -> tuple[int, int]:
    """Return the index of a part and the number of lines of its training text."""
    return part.number, sum(1 for _ in _lines(part, settings))


def _choose(_: None, counts: dict[int, int]) -> Iterator[tuple[int, tuple[int, list[int]]]]:
    """Choose the lines on which the vocabulary is trained.

    Args:
        _: an unused element, because Beam applies functions to elements.
        counts: number of lines of each part. The keys are the indices of the parts.

    Yields:
        For each part, the index of the part and a pair. The first value of the pair is the number of lines in all
        previous parts. The second value is a list of the chosen lines, as indices in the part.
    """
    chosen = np.array(vocabulary.sampled_lines(sum(counts.values())), np.int64)
    start = 0
    for number in sorted(counts):
        first, last = np.searchsorted(chosen, [start, start + counts[number]])
        yield number, (start, (chosen[first:last] - start).tolist())
        start += counts[number]


def _chosen_lines(joined: tuple[int, dict[str, Any]], settings: recipe.Recipe) -> Iterator[tuple[int, str]]:
    """For each chosen line of a part, yield its index in the whole text and the line."""
    [part], [(start, chosen)] = joined[1]["part"], joined[1]["chosen"]
    wanted = set(chosen)
    return ((start + number, line) for number, line in enumerate(_lines(part, settings)) if number in wanted)


def _learned(sample: list[tuple[int, str]], settings: recipe.Recipe) -> bytes:
    """Train a vocabulary of type bpe or unigram on sampled lines. Each line is given with its index in the text."""
    if not sample:
        next(splits.pieces(settings.corpus, "train"))  # raises UserError with the reason
    return vocabulary.train_from_lines(settings.tokenizer, [line for _, line in sorted(sample)])


def _encode(part: Part, model: bytes, settings: recipe.Recipe, folder: str) -> Iterator[dict[str, Any]]:
    """For each split that has text in a part, write a shard and yield a description of the shard.

    Args:
        part: the part.
        model: bytes of the SentencePiece model file.
        settings: the recipe.
        folder: output folder or address.
    """
    words = _opened(model)
    for split in token_cache.SPLITS:
        if part.split not in (None, split):
            continue
        parent = None if remote.is_address(folder) else folder
        with tempfile.TemporaryDirectory(prefix=output_folder.UNFINISHED, dir=parent) as temporary:
            path = Path(temporary, f"{split}-{part.number:05}.ids")
            texts, dtype = partition.texts(part, settings.corpus, split), token_cache.dtype_of(words)
            counts, seen = token_cache.write_ids(texts, settings.corpus, words, path, dtype)
            if not (tokens := path.stat().st_size // np.dtype(dtype).itemsize):
                continue
            shard = {"file": path.name, "tokens": tokens, "sha256": token_cache.sha256(path)}
            first = int(np.fromfile(path, dtype, 1)[0])
            output_folder.move(path, folder)
        summary = {"split": split, "number": part.number, "shard": shard, "counts": counts}
        yield summary | {"first": first, "seen": _packed(seen)}


_opened = functools.lru_cache(1)(Tokenizer)


def _packed(seen: Any) -> str:
    """Return a bool array as hexadecimal with a bit for each entry: ``"a0"`` for ``np.array([True, False, True])``."""
    return np.packbits(seen).tobytes().hex()


def _manifest(settings: recipe.Recipe, folder: str) -> dict[str, Any]:
    """Combine the descriptions of all shards into the manifest, and remove the file of descriptions."""
    lines = output_folder.read(f"{folder}/{RESULTS}").splitlines()
    descriptions = sorted(map(json.loads, lines), key=lambda line: int(line["number"]))
    FileSystems.delete([f"{folder}/{RESULTS}"])
    model = output_folder.read(f"{folder}/{prepared_corpus.TOKENIZER}")
    words = Tokenizer(model)
    sides = {split: [line for line in descriptions if line["split"] == split] for split in token_cache.SPLITS}
    for split, lines in sides.items():
        if not lines:
            raise UserError(splits.empty_split_message(settings.corpus, split))
    shards = {split: [line["shard"] for line in lines] for split, lines in sides.items()}
    seen, first = _seen(sides["train"], words.vocab_size), sides["train"][0]["first"]
    values = {
        "dtype": token_cache.dtype_of(words),
        "counts": {split: _total_counts(settings.corpus, lines) for split, lines in sides.items()},
        **token_cache.special_ids(settings.corpus, words, seen, first),
        "sha256": hashlib.sha256(model).hexdigest(),
        "shards": shards,
    }
    return prepared_corpus.manifest(settings, values)


def _total_counts(settings: recipe.Corpus, shards: list[dict[str, Any]]) -> dict[str, int]:
    """Return the sums of the counts of all shards of a split. A stream is one document."""
    counts = {name: sum(line["counts"][name] for line in shards) for name in token_cache.COUNTS}
    return counts | ({"documents": 1} if settings.documents == "stream" else {})


def _seen(shards: list[dict[str, Any]], V: int) -> Any:
    """Return a bool array of shape [V]. The entry of an id is True if any of the shards contains the id."""
    bits = functools.reduce(np.bitwise_or, (np.frombuffer(bytes.fromhex(line["seen"]), np.uint8) for line in shards))
    return np.unpackbits(bits, count=V).astype(np.bool_)
