"""``python -m keras_lstmgen.prepare``: the same as ``keras-lstmgen prepare``."""

import sys

from keras_lstmgen.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
