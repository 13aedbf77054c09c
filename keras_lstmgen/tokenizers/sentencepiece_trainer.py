"""Train SentencePiece models.

SentencePiece cannot be interrupted by a signal. Therefore, a training on a long text runs in a child process, which can
be killed.
"""

import io
import signal
import subprocess
import sys
from collections.abc import Iterable

import sentencepiece

IN_PROCESS = 100_000  # maximum number of characters for training in this process, which takes about one second


def learn(kind: str, lines: list[str], vocab_size: int) -> bytes:
    """Train a SentencePiece model. The same lines always give the same model.

    Args:
        kind: type of the model: char, word, bpe or unigram.
        lines: lines of the training text.
        vocab_size: number of pieces.

    Returns:
        The bytes of the model file.

    Raises:
        RuntimeError: if the training fails. If SentencePiece itself fails, the error has the message of SentencePiece.
    """
    if sum(map(len, lines)) <= IN_PROCESS:
        return _sentencepiece(kind, lines, vocab_size)
    status, model, errors = _train_in_child([kind, str(vocab_size)], "\n".join(lines).encode("utf-8", "surrogatepass"))
    if status:
        reason = errors.decode(errors="replace").rstrip()
        raise RuntimeError(f"it was ended by {signal.Signals(-status).name}" if status < 0 else reason)
    return model


def _train_in_child(words: list[str], text: bytes) -> tuple[int, bytes, bytes]:
    """Run this file as a script in a child process.

    The child process imports no modules from the working directory. It is killed if this function is interrupted.

    Args:
        words: command line arguments of the script.
        text: standard input of the script.

    Returns:
        The exit status, the standard output and the standard error of the child process.
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
    """Train a SentencePiece model with options that make decoding lossless and disable log messages."""
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
        allow_whitespace_only_pieces=True,  # several spaces can be one piece, which shortens indented text
        byte_fallback=kind != "word",
        user_defined_symbols=["\n"],
        unk_surface=" ⁇",
        num_threads=4,  # a constant, because the trained model depends on the number of threads
        minloglevel=3,
    )
    return model.getvalue()


if __name__ == "__main__":
    text = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    try:
        sys.stdout.buffer.write(_sentencepiece(sys.argv[1], text.split("\n"), int(sys.argv[2])))
    except RuntimeError as error:
        sys.exit(str(error))
