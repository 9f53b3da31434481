"""``python -m evomerge``."""

import sys
from pathlib import Path

from evomerge.cli import main

# -m puts the current folder first, and what lies in the folder of a run is no plugin and no module of anybody's
if not getattr(sys.flags, "safe_path", False) and Path(sys.path[0]) != Path(__file__).parents[1]:
    del sys.path[0]

sys.exit(main())
