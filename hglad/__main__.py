"""`python -m hglad`: the command line without its script, for the jobs of a batch."""

import sys

from hglad.cli import main

sys.exit(main())
