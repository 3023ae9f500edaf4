"""`python -m tests.bench.declared FOLDER GROUP COMMAND ...`: a command line with the data sets that FOLDER declares."""

import sys

import mlops.datasets
from mlops.cli import main

if __name__ == "__main__":
    mlops.datasets.__path__.append(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
