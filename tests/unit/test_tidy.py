"""The tree keeps to its layers."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_imports_go_only_downwards_and_pure_cores_stay_pure():
    """No module imports from a layer above it, and the pure cores import nothing with effects."""
    spec = importlib.util.spec_from_file_location("tidy", ROOT / "scripts" / "tidy.py")
    tidy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tidy)

    assert tidy.check() == []
