"""``python -m keras_lstmgen.train``: the same as ``keras-lstmgen train``."""

import sys

from keras_lstmgen.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
