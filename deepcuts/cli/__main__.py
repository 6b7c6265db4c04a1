"""Runs the command line: `python -m deepcuts.cli VERB ...`."""

import sys

from deepcuts.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
