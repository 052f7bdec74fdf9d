"""Print what `pip install umim[EXTRA]` would ask for, one requirement a line: requirements.py PYPROJECT EXTRA.

The deps layer of an image depends on these lines alone, so that other changes to pyproject.toml keep it cached.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
extras = project["optional-dependencies"]
if sys.argv[2] not in extras:
    sys.exit(f"{sys.argv[1]}: no extra {sys.argv[2]!r}; there are {', '.join(sorted(extras))}")
sys.stdout.writelines(f"{line}\n" for line in sorted({*project["dependencies"], *extras[sys.argv[2]]}))
