"""`make install` and `make uninstall`: once for real, and many times with an environment that costs nothing."""

import sys
from pathlib import Path

# Scripts that run without anything being installed are no package.
sys.path.append(str(Path(__file__).parents[2] / "etc/install"))
