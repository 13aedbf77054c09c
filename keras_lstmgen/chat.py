"""``python -m keras_lstmgen.chat``: the same as ``keras-lstmgen chat``."""

import sys

from keras_lstmgen.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main(["chat", *sys.argv[1:]]))
