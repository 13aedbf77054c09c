"""``python -m keras_lstmgen.evaluate``: the same as ``keras-lstmgen evaluate``."""

import sys

from keras_lstmgen.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
