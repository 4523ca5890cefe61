"""The tree keeps to its layers."""

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_imports_go_only_downwards_and_pure_cores_stay_pure():
    """No module imports from a layer above it, and the pure cores import nothing with effects."""
    spec = importlib.util.spec_from_file_location("tidy", ROOT / "scripts" / "tidy.py")
    tidy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tidy)

    assert tidy.check() == []


def test_the_core_of_raft_needs_only_the_standard_library():
    """Importing it loads nothing else, so that it serves as a library."""
    program = (
        "import sys, kingbus.raft.raw_node\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(loaded - sys.stdlib_module_names - {'kingbus', '__main__'}))\n"
        "print(*sorted(n for n in sys.modules if n.startswith('kingbus.')"
        " and not n.startswith(('kingbus.raft', 'kingbus.errors'))))"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []
