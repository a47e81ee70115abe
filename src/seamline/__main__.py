"""`python -m seamline`: the same as the command `seamline`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
