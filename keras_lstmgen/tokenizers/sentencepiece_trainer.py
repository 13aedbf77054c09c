"""Train SentencePiece models, in a child process if it takes long, because the trainer cannot be interrupted."""

import io
import signal
import subprocess
import sys
from collections.abc import Iterable

import sentencepiece

IN_PROCESS = 100_000  # maximum characters for training in this process, about one second


def learn(kind: str, lines: list[str], vocab_size: int) -> bytes:
    """Train a SentencePiece model. A signal interrupts the training at once; the same lines give the same bytes.

    Args:
        kind: char, word, bpe or unigram.
        lines: the training text.
        vocab_size: number of pieces.

    Returns:
        The bytes of the model.

    Raises:
        RuntimeError: the training fails, with the message of SentencePiece.
    """
    if sum(map(len, lines)) <= IN_PROCESS:
        return _sentencepiece(kind, lines, vocab_size)
    status, model, errors = _train_in_child([kind, str(vocab_size)], "\n".join(lines).encode("utf-8", "surrogatepass"))
    if status:
        reason = errors.decode(errors="replace").rstrip()
        raise RuntimeError(f"it was ended by {signal.Signals(-status).name}" if status < 0 else reason)
    return model


def _train_in_child(words: list[str], text: bytes) -> tuple[int, bytes, bytes]:
    """Run this file in a child process; return its exit status, standard output and standard error.

    The child imports nothing from the working directory, and is killed if this function is interrupted.
    """
    with subprocess.Popen(
        [sys.executable, "-P", __file__, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches only the parent process
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(text)
        except BaseException:
            process.kill()
            process.wait()
            raise
    return process.returncode, out, err


def _sentencepiece(kind: str, lines: Iterable[str], vocab_size: int) -> bytes:
    """Call the trainer with the options that make the model lossless, without log messages."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=kind,
        vocab_size=vocab_size,
        character_coverage=1.0,
        use_all_vocab=kind in ("char", "word"),
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,  # for indented text: a run of spaces can be a piece
        byte_fallback=kind != "word",
        user_defined_symbols=["\n"],
        unk_surface=" ⁇",
        num_threads=4,  # a constant, because the sums of the threads affect the result
        minloglevel=3,
    )
    return model.getvalue()


if __name__ == "__main__":
    text = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    try:
        sys.stdout.buffer.write(_sentencepiece(sys.argv[1], text.split("\n"), int(sys.argv[2])))
    except RuntimeError as error:
        sys.exit(str(error))
