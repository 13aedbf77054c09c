"""Generate text: sampling, beam search, constraints, batches and chat sessions.

The decoding loop here is the one that every exported artifact contains.
"""
