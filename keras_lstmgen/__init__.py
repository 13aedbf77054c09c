"""From a text of yours to an LSTM that writes, and from there to wherever it has to run.

The way of the data, one file a stage:

    recipe → sources → corpus → tokenizer → streams → model → training → run
                                                        ↓
                                    decode → generation, evaluation → exporters
"""

__version__ = "0.1.0"
