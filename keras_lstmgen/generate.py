"""``python -m keras_lstmgen.generate``: the same as ``keras-lstmgen generate``."""

import sys

from keras_lstmgen.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
