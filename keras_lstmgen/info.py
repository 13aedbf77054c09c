"""``python -m keras_lstmgen.info``: the same as ``keras-lstmgen info``."""

import sys

from keras_lstmgen.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main(["info", *sys.argv[1:]]))
