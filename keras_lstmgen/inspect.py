"""``python -m keras_lstmgen.inspect``: the same as ``keras-lstmgen inspect``."""

import sys

from keras_lstmgen.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main(["inspect", *sys.argv[1:]]))
