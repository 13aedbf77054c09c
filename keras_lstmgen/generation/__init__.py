"""Generate text: sampling, beam search, logits processors, batches and chat sessions.

Every exported artifact contains the decoding loop of this package.
"""
