"""``python -m evomerge``."""

import sys

# -m puts the current folder first, and what lies in the folder of a run is no plugin and no module of anybody's: not
# even of Python's own, so that nothing is imported before
if not sys.flags.safe_path and sys.path[0] != __file__.rpartition("/evomerge/")[0]:
    del sys.path[0]

from evomerge.cli import main

sys.exit(main())
