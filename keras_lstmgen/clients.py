"""``python -m keras_lstmgen.clients``: the same as ``keras-lstmgen clients``."""

import sys

from keras_lstmgen.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main(["clients", *sys.argv[1:]]))
