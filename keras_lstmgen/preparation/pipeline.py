"""From text to shards of ids, with Apache Beam: by as many workers as there are, always the same shards.

The text is cut into numbered parts (``partition``). Each worker reads the parts that it is given, so that nothing of
the text goes from worker to worker but counts, hashes and the lines that a vocabulary learns from. Shard n of a side
holds the ids of part n. Whoever made them, the shards in their order are what ``encoding`` writes.

    parts → (each document once) → symbols or lines counted → vocabulary
      └────────────────────────────────────────────────────────┴→ shards
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shutil
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
from keras_lstmgen.files import atomic, remote
from keras_lstmgen.files.folders import MANIFEST
from keras_lstmgen.preparation import beam_files, partition
from keras_lstmgen.preparation.partition import Part
from keras_lstmgen.system import cpu
from keras_lstmgen.system.native_stderr import captured_stderr
from keras_lstmgen.tokenizers import tokenizer
from keras_lstmgen.tokenizers.tokenizer import Tokenizer
from keras_lstmgen.utils.errors import UserError

RESULTS = "results"
UNFINISHED = ".shard-"
SAFE_PATH = "PYTHONSAFEPATH"
LOCAL = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
SAID = re.compile(r"UserError: (.*?)(?: \[while running .*)?$", re.MULTILINE)  # a worker's, in what a runner tells


def prepare(
    settings: recipe.Recipe, output: Path | str, options: Sequence[str], report: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write a prepared corpus to the folder ``output``, which must not be there yet; return what its manifest says.

    ``output`` may be an address, as ``remote`` has them; what was written there is removed if not all could be.
    ``options`` are Beam's own; without a runner among them the local one runs, on all cores. ``report`` is told from
    time to time how many shards there are.
    Raises UserError for text, recipe or options that cannot be used. Memory is bounded by a part, not by the corpus.
    """
    tokenizer.check(settings.tokenizer)
    settings = replace(settings, corpus=sources.spool(settings.corpus))
    parts = partition.plan(settings.corpus)
    chosen = _options(options, len(parts))
    with _made(str(output)) as folder:
        with _watched(folder, len(parts), report):
            _run(settings, parts, folder, chosen)
        about = _manifest(replace(settings, corpus=sources.with_absolute_paths(settings.corpus)), folder)
        _write(f"{folder}/{MANIFEST}", json.dumps(about, indent=2, ensure_ascii=False).encode())
    return about


@contextlib.contextmanager
def _made(output: str) -> Iterator[str]:
    """The folder that shards are written to: one that is renamed to ``output`` when it is whole, or the address."""
    is_address = remote.is_address(output)
    if beam_files.list_files(output) if is_address else Path(output).exists():
        raise UserError(f"--output {output}: is there already; name a folder that is not")
    if not is_address:
        with atomic.replacing(Path(output)) as folder:
            folder.mkdir()
            yield str(folder.absolute())
            for left in folder.glob(f"{UNFINISHED}*"):  # of a worker that was ended and begun again
                shutil.rmtree(left)
        return
    try:
        yield output.rstrip("/")
    except BaseException:
        beam_files.delete(beam_files.list_files(output))
        raise


def _write(path: str, data: bytes) -> None:
    """Write a small file of the folder."""
    if not remote.is_address(path):
        atomic.write_bytes(Path(path), data)
        return
    with beam_files.create(path) as file:
        file.write(data)


def _read(path: str) -> bytes:
    if not remote.is_address(path):
        return Path(path).read_bytes()
    return beam_files.read(path)


def _options(given: Sequence[str], parts: int) -> PipelineOptions:
    """Beam's options: those given, before them the local runner with a process for each core that gets a part."""
    workers = min(cpu.available(), parts)
    local = [f"--runner={LOCAL}", f"--direct_num_workers={workers}"]
    local += ["--direct_running_mode=multi_processing"] if workers > 1 else []
    if any(word.startswith("--runner") for word in given):
        return PipelineOptions(given)  # what it does not know, the runner's job server may
    options = PipelineOptions([*local, *given])
    if unknown := _parsed(options, retain_unknown_options=True).keys() - _parsed(options).keys():
        raise UserError(f"--{min(unknown)}: the local runner of Apache Beam has no such option")
    return options


def _parsed(options: PipelineOptions, **values: bool) -> dict[str, Any]:
    """Beam's options by name. UserError in place of argparse's usage and exit."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            return dict(options.get_all_options(**values))
        except SystemExit as error:
            reason = said.getvalue().strip().rpartition("error: ")[2]
            raise UserError(f"Apache Beam's options: {reason}") from error


@contextlib.contextmanager
def _watched(folder: str, parts: int, report: Callable[[str], None]) -> Iterator[None]:
    """Tell every second how far the workers are, by the shards that they have written."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1):
            shards = sum(1 for _ in Path(folder).glob("train-*.ids"))  # none at an address: its runner has a page
            report(f"{shards:,} of about {parts:,} shards" if shards else "reading the corpus, learning a vocabulary")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _run(settings: recipe.Recipe, parts: list[Part], folder: str, options: PipelineOptions) -> None:
    """Run the pipeline to its end. UserError for what a worker or the runner could not do.

    The local runner's processes have nothing to tell but how they begin and end; of others it is worth reading.
    """
    is_local = options.view_as(StandardOptions).runner == LOCAL
    try:
        with captured_stderr(show_on_failure=False) if is_local else contextlib.nullcontext(), _safe_path():
            pipeline = beam.Pipeline(options=options)
            _build(pipeline, settings, parts, folder)
            pipeline.run().wait_until_finish()
    except Exception as error:  # each runner has its own, with what a worker raised somewhere in their text
        said = SAID.findall(f"{type(error).__name__}: {error}")
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(said[-1] if said else f"Apache Beam could not run this: {reason[-1]}") from error


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Let the Python processes that a runner starts in the block import nothing from the working directory."""
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
    """The whole of it: parts, vocabulary, shards, and a line of JSON on each shard."""
    parts = pipeline | "parts" >> beam.Create(plan) | "deal" >> beam.Reshuffle()
    if settings.corpus.documents == "stream":
        counted = parts | "characters" >> beam.Map(partition.surveyed, settings.corpus)
        once = pipeline | "once" >> beam.Create([None])
        laid = once | "lay out" >> beam.FlatMap(partition.lay_out, pvalue.AsDict(counted), plan, settings.corpus)
        parts = laid | "deal again" >> beam.Reshuffle()
    if settings.corpus.unique:
        parts = _each_once(parts, settings.corpus)
    model = (_count if settings.tokenizer.type in tokenizer.COUNTED else _learn)(parts, settings)
    shards = parts | "encode" >> beam.FlatMap(_encode, pvalue.AsSingleton(model), settings, folder)
    lines = shards | "tell" >> beam.Map(json.dumps)
    _ = lines | "write" >> beam.io.WriteToText(f"{folder}/{RESULTS}", num_shards=1, shard_name_template="")
    _ = model | "save" >> beam.Map(functools.partial(_write, f"{folder}/{prepared_corpus.TOKENIZER}"))


def _each_once(parts: Any, settings: recipe.Corpus) -> Any:
    """The parts, told which of their documents come first among equals."""
    first = parts | "hash" >> beam.FlatMap(_keys, settings) | "first" >> beam.CombinePerKey(min)
    kept = first | "where" >> beam.Values() | "by part" >> beam.GroupByKey()
    both = {"part": parts | "number" >> beam.Map(_numbered), "kept": kept}
    return both | "join" >> beam.CoGroupByKey() | "keep" >> beam.Map(_keep)


def _keys(part: Part, settings: recipe.Corpus) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """What equal documents of one side share, and where each stands."""
    for number, document in enumerate(splits.documents(settings, part.sources)):
        side = part.split or splits.split_of(document, settings)
        yield side.encode() + splits.document_key(document), (part.number, number)


def _numbered(part: Part) -> tuple[int, Part]:
    return part.number, part


def _keep(joined: tuple[int, dict[str, Any]]) -> Part:
    [part] = joined[1]["part"]
    return replace(part, kept=frozenset(chain.from_iterable(joined[1]["kept"])))


def _count(parts: Any, settings: recipe.Recipe) -> Any:
    """A vocabulary of the most frequent symbols."""
    counts = parts | "symbols" >> beam.FlatMap(_symbols, settings) | "add" >> beam.CombinePerKey(sum)
    total = counts | "counts" >> beam.Values() | "total" >> beam.CombineGlobally(sum)
    most = tokenizer.max_symbols(settings.tokenizer)
    ranked = counts | "rank" >> combiners.Top.Of(most, key=tokenizer.rank, reverse=True)
    return ranked | "vocabulary" >> beam.Map(_counted, pvalue.AsSingleton(total), settings)


def _symbols(part: Part, settings: recipe.Recipe) -> Iterable[tuple[str, int]]:
    texts = functools.partial(partition.texts, part, settings.corpus, "train")
    return tokenizer.count_symbols(settings.tokenizer.type, texts).items()


def _counted(ranked: list[tuple[str, int]], total: int, settings: recipe.Recipe) -> bytes:
    return tokenizer.train_from_counts(settings.tokenizer, ranked, total)


def _learn(parts: Any, settings: recipe.Recipe) -> Any:
    """A vocabulary that SentencePiece learns, in one place, from the lines that ``tokenizer.train`` takes."""
    lines = parts | "lines" >> beam.Map(_line_count, settings)
    once = parts.pipeline | "once more" >> beam.Create([None])
    chosen = once | "choose" >> beam.FlatMap(_choose, pvalue.AsDict(lines))
    both = {"part": parts | "numbers" >> beam.Map(_numbered), "chosen": chosen}
    sample = both | "join lines" >> beam.CoGroupByKey() | "sample" >> beam.FlatMap(_chosen_lines, settings)
    return sample | "gather" >> combiners.ToList() | "vocabulary" >> beam.Map(_learned, settings)


def _lines(part: Part, settings: recipe.Recipe) -> Iterator[str]:
    return chain.from_iterable(map(tokenizer.short_lines, partition.texts(part, settings.corpus, "train")))


def _line_count(part: Part, settings: recipe.Recipe) -> tuple[int, int]:
    return part.number, sum(1 for _ in _lines(part, settings))


def _choose(_: None, counts: dict[int, int]) -> Iterator[tuple[int, tuple[int, list[int]]]]:
    """For each part the number of its first line in the whole text, and those of the chosen ones in the part."""
    chosen = np.array(tokenizer.sampled_lines(sum(counts.values())), np.int64)
    start = 0
    for number in sorted(counts):
        first, last = np.searchsorted(chosen, [start, start + counts[number]])
        yield number, (start, (chosen[first:last] - start).tolist())
        start += counts[number]


def _chosen_lines(joined: tuple[int, dict[str, Any]], settings: recipe.Recipe) -> Iterator[tuple[int, str]]:
    [part], [(start, chosen)] = joined[1]["part"], joined[1]["chosen"]
    wanted = set(chosen)
    return ((start + number, line) for number, line in enumerate(_lines(part, settings)) if number in wanted)


def _learned(sample: list[tuple[int, str]], settings: recipe.Recipe) -> bytes:
    if not sample:
        next(splits.pieces(settings.corpus, "train"))  # which says why there is none
    return tokenizer.train_from_lines(settings.tokenizer, [line for _, line in sorted(sample)])


def _encode(part: Part, model: bytes, settings: recipe.Recipe, folder: str) -> Iterator[dict[str, Any]]:
    """Write the shards of a part, one a side where there is text; tell what is in each."""
    words = _opened(model)
    for split in token_cache.SPLITS:
        if part.split not in (None, split):
            continue
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=None if remote.is_address(folder) else folder) as place:
            path = Path(place, f"{split}-{part.number:05}.ids")
            texts, dtype = partition.texts(part, settings.corpus, split), token_cache.dtype_of(words)
            counts, seen = token_cache.write_ids(texts, settings.corpus, words, path, dtype)
            if not (tokens := path.stat().st_size // np.dtype(dtype).itemsize):
                continue
            shard = {"file": path.name, "tokens": tokens, "sha256": token_cache.sha256(path)}
            first = int(np.fromfile(path, dtype, 1)[0])
            _deliver(path, folder)
        told = {"split": split, "number": part.number, "shard": shard, "counts": counts}
        yield told | {"first": first, "seen": _packed(seen)}


def _deliver(path: Path, folder: str) -> None:
    """Put a whole shard in its place; that of a worker begun again is the same, and takes the place of the first."""
    if not remote.is_address(folder):
        path.replace(Path(folder, path.name))
        return
    with path.open("rb") as shard, beam_files.create(f"{folder}/{path.name}") as file:
        shutil.copyfileobj(shard, file)


_opened = functools.lru_cache(1)(Tokenizer)


def _packed(seen: Any) -> str:
    """Which ids occur, a bit each: ``_packed(np.array([True, False, True]))`` is ``"a0"``."""
    return np.packbits(seen).tobytes().hex()


def _manifest(settings: recipe.Recipe, folder: str) -> dict[str, Any]:
    """What all workers told, as one."""
    lines = _read(f"{folder}/{RESULTS}").splitlines()
    told = sorted(map(json.loads, lines), key=lambda line: int(line["number"]))
    FileSystems.delete([f"{folder}/{RESULTS}"])
    model = _read(f"{folder}/{prepared_corpus.TOKENIZER}")
    words = Tokenizer(model)
    sides = {split: [line for line in told if line["split"] == split] for split in token_cache.SPLITS}
    for split, lines in sides.items():
        if not lines:
            raise UserError(splits.empty_split_message(settings.corpus, split))
    shards = {split: [line["shard"] for line in lines] for split, lines in sides.items()}
    seen, first = _seen(sides["train"], words.vocab_size), sides["train"][0]["first"]
    values = {
        "dtype": token_cache.dtype_of(words),
        "counts": {split: _added(settings.corpus, lines) for split, lines in sides.items()},
        **token_cache.special_ids(settings.corpus, words, seen, first),
        "sha256": hashlib.sha256(model).hexdigest(),
        "shards": shards,
    }
    return prepared_corpus.manifest(settings, values)


def _added(settings: recipe.Corpus, told: list[dict[str, Any]]) -> dict[str, int]:
    counts = {name: sum(line["counts"][name] for line in told) for name in token_cache.COUNTS}
    return counts | ({"documents": 1} if settings.documents == "stream" else {})


def _seen(told: list[dict[str, Any]], V: int) -> Any:
    """Which ids occur in any of these shards, bool (V,)."""
    bits = functools.reduce(np.bitwise_or, (np.frombuffer(bytes.fromhex(line["seen"]), np.uint8) for line in told))
    return np.unpackbits(bits, count=V).astype(np.bool_)
