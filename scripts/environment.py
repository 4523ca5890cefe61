"""What the Python programs of this folder begin with: the environment's interpreter, the tree.

    import environment
    environment.enter()

Run by another interpreter, a program is started again by the one of `.venv`, which is made or
brought up to date first. The tree itself comes first on the path, before an installed kingbus.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ENVIRONMENT = ROOT / ".venv"


def enter(*preparations: str) -> None:
    """Go on in the environment; `preparations` are scripts to run before, behind `install`."""
    if Path(sys.prefix).resolve() != _ENVIRONMENT.resolve():
        for script in ("install", *preparations):
            if subprocess.run([ROOT / "scripts" / script], check=False).returncode != 0:
                sys.exit(2)
        python = str(_ENVIRONMENT / "bin/python")
        os.execv(python, [python, str(Path(sys.argv[0]).resolve()), *sys.argv[1:]])
    sys.dont_write_bytecode = True
    # Nodes run from bytecode as installed ones do: compiled anew it is half of what a start takes.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.path.insert(0, str(ROOT))
