#!/usr/bin/env python3
"""Check what no linter can: that imports go only downwards and that the pure cores stay pure.

`LAYERS` is the only table. A module may import its own package and anything in a lower layer;
packages of the same layer do not see each other unless the layer says so.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Lowest first. `siblings` says whether the packages of a layer may import each other.
LAYERS: tuple[tuple[frozenset[str], bool], ...] = (
    (
        frozenset({"errors", "units", "log", "metrics", "pb", "secrets", "addresses", "crc"}),
        True,
    ),
    (frozenset({"raft", "mysql", "binlog", "membership"}), False),
    (frozenset({"storage"}), False),
    (frozenset({"transport", "node", "replication", "archive"}), True),
    (frozenset({"admin"}), False),
    (frozenset({"config", "credentials", "daemon", "joining", "cli", "__main__"}), True),
)
PURE = frozenset({"raft", "mysql", "binlog", "membership"})
IMPURE_MODULES = frozenset(
    {
        "trio",
        "socket",
        "ssl",
        "threading",
        "asyncio",
        "time",
        "datetime",
        "os",
        "pathlib",
        "subprocess",
        "select",
        "secrets",
        "structlog",
        "rocksdict",
        "httpx",
        "pymysql",
    }
)
SOLE_IMPORTERS = {
    "boto3": ("kingbus/archive/s3.py",),
    "isal": ("kingbus/crc.py", "kingbus/mysql/compression.py"),
    "rocksdict": ("kingbus/storage/database.py",),
    "pymysql": ("kingbus/replication/source_connection.py",),
}
ALONE = frozenset({"raft", "errors"})
"""Of use without the rest: nothing but the standard library and one another."""
LINES_MAX = 1500


def layer_of(package: str) -> int:
    for number, (members, _) in enumerate(LAYERS):
        if package in members:
            return number
    raise KeyError(package)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
            if node.module == "kingbus":
                for alias in node.names:
                    yield node.lineno, f"kingbus.{alias.name}"


def complaints(path: Path) -> Iterator[str]:
    relative = path.relative_to(ROOT)
    text = path.read_text(encoding="utf-8")
    package = relative.parts[1].removesuffix(".py")
    if package == "__init__":
        return
    try:
        own_layer = layer_of(package)
    except KeyError:
        yield f"{relative}: {package} stands in no layer of scripts/tidy.py"
        return
    if text.count("\n") > LINES_MAX:
        yield f"{relative}: more than {LINES_MAX} lines"
    for line, name in imports(ast.parse(text)):
        top, _, rest = name.partition(".")
        if package in PURE and top in IMPURE_MODULES:
            yield f"{relative}:{line}: {package}/ is pure and may not import {name}"
        if package in ALONE and top not in sys.stdlib_module_names | {"kingbus"}:
            yield f"{relative}:{line}: {package}/ takes only the standard library, not {name}"
        sole = SOLE_IMPORTERS.get(top)
        if sole is not None and str(relative) not in sole:
            yield f"{relative}:{line}: only {' and '.join(sole)} may import {top}"
        other = rest.split(".")[0]
        if top != "kingbus" or not other or other in {package, "__version__"}:
            continue
        if package in ALONE and other not in {"errors", *ALONE}:
            yield f"{relative}:{line}: {package}/ stands alone and may not import {name}"
        other_layer = layer_of(other)
        if other_layer > own_layer:
            yield f"{relative}:{line}: {package} may not import {name}, which is above it"
        elif other_layer == own_layer and not LAYERS[own_layer][1]:
            yield f"{relative}:{line}: {package} may not import its sibling {name}"


def check() -> list[str]:
    """Every breach in the tree, as lines of text."""
    files = sorted((ROOT / "kingbus").rglob("*.py"))
    return [
        line for path in files if not path.name.endswith("_pb2.py") for line in complaints(path)
    ]


if __name__ == "__main__":
    found = check()
    print("\n".join(found))
    sys.exit(1 if found else 0)
