"""`python -m embkeras` runs the command `embkeras`."""

import sys

from embkeras.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
