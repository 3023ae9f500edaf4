"""Entry of a pod: `python -m mlops <group> <command> --option value`."""

import sys

from mlops.cli import main

sys.exit(main(sys.argv[1:]))
