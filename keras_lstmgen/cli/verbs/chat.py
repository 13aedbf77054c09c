"""Run the verb ``chat``: converse with a trained model in the terminal."""

import argparse

from keras_lstmgen.cli import chat_terminal, console
from keras_lstmgen.cli.verbs.run_arguments import find_run, sampling_options
from keras_lstmgen.config import effects
from keras_lstmgen.generation.chat_session import ChatModel, ChatSession, remembered_turns
from keras_lstmgen.generation.text_generation import GenerationConfig, Generator
from keras_lstmgen.models import run_directory
from keras_lstmgen.utils.errors import check_range


def run(arguments: argparse.Namespace) -> None:
    """Answer each line of standard input until the input ends."""
    options = sampling_options(arguments)
    effects.check_sampling(arguments)
    check_range("--max-new-tokens", arguments.max_new_tokens, 1)
    folder = find_run(arguments.run, arguments.runs)
    model = run_directory.load(folder)
    memory = remembered_turns(model.metadata, arguments.memory)
    config = GenerationConfig(arguments.max_new_tokens, options)
    chat_terminal.converse(ChatSession(ChatModel(Generator(model), config, memory), arguments.seed))
    console.next_beside("keras-lstmgen", "evaluate", folder)
