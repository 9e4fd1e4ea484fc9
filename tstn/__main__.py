"""``python -m tstn``: the same as the command ``tstn``."""

import sys

from tstn.cli import main

if __name__ == "__main__":
    sys.exit(main())
