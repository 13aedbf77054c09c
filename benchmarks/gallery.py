"""Write docs/gallery.md: the first unedited samples of the run of each recipe.

    python -m benchmarks.gallery
    python -m benchmarks.gallery saved_models/quickstart --output /tmp/gallery.md

A run must have the name of its recipe. If runs are named, the page keeps its sections of other recipes. A run on a
stream or on documents generates three texts from the start symbol with seeds 0, 1 and 2, or three per label. A run on
pairs answers the first three different sources of each validation file, by the beam search of its recipe or greedily.
The command that generates a sample stands above it.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from benchmarks.workers import ROOT
from keras_lstmgen.config import recipe
from keras_lstmgen.data import prepared_corpus, splits
from keras_lstmgen.files import atomic
from keras_lstmgen.generation import beam_search, decoding_loop, text_generation
from keras_lstmgen.generation.growing_text import Sample
from keras_lstmgen.generation.sampling import Options
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory as runs
from keras_lstmgen.utils.errors import UserError

PIPELINES, SAVED, PAGE = ROOT / "pipelines", ROOT / "saved_models", ROOT / "docs" / "gallery.md"
SEEDS, TEMPERATURE, TOKENS = (0, 1, 2), 0.8, 300
HEAD = """\
# Samples of the recipes

This page shows unedited samples of the runs of the recipes. They are the first generated samples, without selection:

- For a run on a continuous text or on documents, the page shows three texts that begin at the start symbol. Their seeds
  are 0, 1 and 2. If the recipe has labels, the page shows three texts per label.
- For a run on pairs, the page shows the answers to the first three different sources of each validation file. They are
  generated with the beam search of the recipe's `[evaluate]` table, or by greedy decoding if the table has none.

The command above each sample generates the same sample again. `make gallery` writes this page from the runs in
`saved_models/` that have the name of a recipe."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; 2 with one line where a run cannot be used."""
    arguments = _arguments(argv)
    try:
        folders = arguments.run or named_after_recipes(arguments.runs)
        kept = sections(arguments.output) if arguments.run else {}
        written = kept | {folder.resolve().name: section(folder, arguments.output.parent) for folder in folders}
        atomic.write_text(arguments.output, "\n\n".join([HEAD, *(written[name] for name in sorted(written))]) + "\n")
    except UserError as error:
        print(f"benchmarks.gallery: {error}", file=sys.stderr)
        return 2
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="*", type=Path, help="folders of runs; none: all that bear a recipe's name")
    parser.add_argument("--runs", type=Path, default=SAVED, metavar="FOLDER", help="where these are looked for")
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE", help="the page")
    return parser.parse_args(argv)


def named_after_recipes(folder: Path) -> list[Path]:
    """The finished runs of a folder that bear the name of a recipe, in its order."""
    found = [folder / path.stem for path in sorted(PIPELINES.glob("*.toml"))]
    finished = [run for run in found if (run / runs.MODEL).is_file() and (run / runs.METADATA).is_file()]
    if not finished:
        raise UserError(f"{folder}: holds no run that bears the name of a recipe; train one, or name folders")
    return finished


def sections(page: Path) -> dict[str, str]:
    """What a page has of each recipe, by its name. What a model wrote stands between fences, and is no heading."""
    parts: dict[str, list[str]] = {}
    name, fenced_by = "", ""
    for line in page.read_text(encoding="utf-8").splitlines() if page.is_file() else []:
        if found := re.match(r"## \[(\w+)\]", line if not fenced_by else ""):
            name = found[1]
        if found := re.match("`{3,}", line):
            fenced_by = "" if line == fenced_by else fenced_by or found[0]
        parts.setdefault(name, []).append(line)
    return {name: "\n".join(lines).strip("\n") for name, lines in parts.items() if name}


def section(folder: Path, page: Path) -> str:
    """What a run's recipe is for, what it reached, what it writes; ``page`` is the folder that links begin at."""
    path = PIPELINES / f"{folder.resolve().name}.toml"
    if not path.is_file():
        raise UserError(f"{folder}: does not bear the name of a recipe in {PIPELINES}; rename the folder")
    run = runs.load(folder)
    about = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    link = f"## [{path.stem}]({os.path.relpath(path, page)})"
    return "\n\n".join([link, about, _loss(folder, run.metadata), *texts(run, path.stem)])


def texts(run: runs.Run, name: str) -> Iterator[str]:
    """What it writes, each behind the command that writes the same."""
    if run.metadata.source_end_id == runs.NONE:
        return samples(run, name)
    kinds = recipe.parse(run.metadata.recipe).corpus.labels
    return chain.from_iterable(samples(run, name, kind) for kind in kinds) if kinds else answers(run, name)


def _loss(folder: Path, metadata: runs.Metadata) -> str:
    loss, text = metadata.metrics.get("validation"), splits.validation_kind(recipe.parse(metadata.recipe).corpus)
    if not loss:
        raise UserError(f"{folder}: nothing was measured on held-out text; train it to its end")
    words = f"{loss['nats_per_token']:.3f} nats and a perplexity of {loss['perplexity']:.2f} per token"
    where = "its " * (text == "training text") + text
    return f"On {where}: {words}, {loss['bits_per_character']:.3f} bits per character."


def samples(run: runs.Run, name: str, prompt: str = "") -> Iterator[str]:
    """The texts of all seeds, written side by side as ``--n`` does."""
    words = ["--temperature", str(TEMPERATURE), "--seed", str(SEEDS[0]), "--n", str(len(SEEDS))]
    yield _command(name, words + (["--prompt", prompt] if prompt else []))
    for seed, sample in zip(
        SEEDS,
        Generator(run).generate(prompt, GenerationConfig(TOKENS, Options(temperature=TEMPERATURE)), seeds=SEEDS),
        strict=True,
    ):
        yield f"Seed {seed}:"
        yield fence(sample.text)


def answers(run: runs.Run, name: str) -> Iterator[str]:
    """The answers to the first sources of each file that differ: found as the recipe measures them."""
    settings = recipe.parse(run.metadata.recipe)
    words, answer = _answering(run, settings.evaluate)
    for source in chain.from_iterable(map(_first_sources, _files(prepared_corpus.source_corpus(settings.corpus)))):
        prompt = f"{source}\n" if "\n" in source else source  # a newline in it would be taken for its end
        yield _command(name, [*words, "--prompt", prompt])
        yield fence(answer(prompt).text)


def _files(settings: recipe.Corpus) -> list[recipe.Corpus]:
    """The corpus with one of its validation files at a time; as it is, where they are a part of the source."""
    return [replace(settings, validation=(name,)) for name in settings.validation] or [settings]


def _first_sources(settings: recipe.Corpus) -> Iterator[str]:
    sources = dict.fromkeys(text.rpartition("\n")[0] for text in splits.pieces(settings, "validation"))
    return islice(sources, len(SEEDS))


def _answering(run: runs.Run, asked: recipe.Evaluate) -> tuple[list[str], Callable[[str], Sample]]:
    """The options of ``generate`` that ask for an answer, and what answers a prompt so."""
    if not asked.beams:
        generator = Generator(run)
        words, greedy = ["--temperature", "0"], Options(temperature=0)
        return words, lambda prompt: generator.generate(prompt, GenerationConfig(TOKENS, greedy))[0]
    step, search = (
        decoding_loop.compile_step(run.weights),
        beam_search.BeamSearchConfig(asked.beams, asked.length_penalty, TOKENS),
    )
    words = ["--beams", str(asked.beams), "--length-penalty", str(asked.length_penalty)]
    return words, lambda prompt: text_generation.search(run, step, prompt, search)[0]


def _command(name: str, words: list[str]) -> str:
    limit = ["--max-new-tokens", str(TOKENS)]
    return fence(shlex.join(["keras-lstmgen", "generate", name, *limit, *words]), "sh")


def fence(text: str, language: str = "text") -> str:
    """A text as a block of code that none of its own lines can end."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


if __name__ == "__main__":
    sys.exit(main())
