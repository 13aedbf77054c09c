"""SentencePiece's trainer, in a process of its own where it takes long: nothing ends it on the way but a kill."""

import io
import signal
import subprocess
import sys
from collections.abc import Iterable

import sentencepiece

AT_ONCE = 100_000  # characters, which take a second or so


def learn(kind: str, lines: list[str], vocab_size: int) -> bytes:
    """A model that SentencePiece learns from lines. RuntimeError with what it says where it cannot.

    A signal breaks it off at once. The same lines give the same bytes.
    """
    if sum(map(len, lines)) <= AT_ONCE:
        return _sentencepiece(kind, lines, vocab_size)
    status, model, said = _elsewhere([kind, str(vocab_size)], "\n".join(lines).encode("utf-8", "surrogatepass"))
    if status:
        reason = said.decode(errors="replace").rstrip()
        raise RuntimeError(f"it was ended by {signal.Signals(-status).name}" if status < 0 else reason)
    return model


def _elsewhere(words: list[str], text: bytes) -> tuple[int, bytes, bytes]:
    """Run this file in a process of its own; return its exit status and its two outputs.

    The process imports nothing from the working directory, and does not outlive the wait.
    """
    with subprocess.Popen(
        [sys.executable, "-P", __file__, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,  # the keyboard's signals are for the process that waits
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(text)
        except BaseException:
            process.kill()
            process.wait()
            raise
    return process.returncode, out, err


def _sentencepiece(kind: str, lines: Iterable[str], vocab_size: int) -> bytes:
    """Its trainer with all that makes it lossless; it logs nothing."""
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
        allow_whitespace_only_pieces=True,  # indented text: a run of spaces is a piece
        byte_fallback=kind != "word",
        user_defined_symbols=["\n"],
        unk_surface=" ⁇",
        num_threads=4,  # of the result, not of the machine: sums are added in this many parts
        minloglevel=3,
    )
    return model.getvalue()


if __name__ == "__main__":
    text = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    try:
        sys.stdout.buffer.write(_sentencepiece(sys.argv[1], text.split("\n"), int(sys.argv[2])))
    except RuntimeError as error:
        sys.exit(str(error))
