"""``python -m pyengine``: the command, whatever the environment's PATH says."""

import sys

from pyengine.cli import main

if __name__ == "__main__":
    sys.exit(main())
