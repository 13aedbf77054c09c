"""``python -m keras_lstmgen.export``: the same as ``keras-lstmgen export``."""

import sys

from keras_lstmgen.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
