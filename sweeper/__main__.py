"""`python -m sweeper` is the command `sweeper`."""

import sys
from pathlib import Path

# `-m` puts the working folder first among those of modules. It is no place for code, unless this file lies in it.
if not sys.flags.safe_path and Path(sys.path[0]) != Path(__file__).parents[1]:
    del sys.path[0]

from sweeper.cli.app import main

main()
