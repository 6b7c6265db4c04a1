"""Run a sweep file: `python run_sweep.py SWEEP.yaml ...` is `deepcuts run SWEEP.yaml ...`."""

import sys

from deepcuts.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
