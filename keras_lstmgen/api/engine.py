"""The part of the Python API that needs TensorFlow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory


def load(folder: Path) -> Generator:
    """Load a run."""
    return Generator(run_directory.load(folder))


def generate(generator: Generator, prompt: str, options: Mapping[str, Any]) -> str:
    """Generate a text."""
    return generator.generate(prompt, GenerationConfig(**options))[0].text
