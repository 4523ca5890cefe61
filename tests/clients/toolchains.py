"""The client programs: built once for each state of their sources, and kept in the cache.

Knows compilers and package managers. What cannot be built here raises UnreachableError, whose
text says why: the row of such a client is not filled in.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support import installations

HERE = Path(__file__).parent

MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
BUILD_SECONDS = 900.0
"""Longer than any download of packages should take; a registry that hangs is not waited for."""


class UnreachableError(Exception):
    """A client cannot be run here; the text is the reason, in a few words."""


def python_reader() -> list[str]:
    """The reader by python-mysql-replication, which the tests' environment has."""
    return [sys.executable, str(HERE / "python/reader.py")]


def go_reader() -> list[str]:
    """The readers by go-mysql."""
    go = _program("go")

    def build(target: Path) -> None:
        run = [go, "build", "-mod=readonly", "-o", str(target / "reader"), "."]
        _run(run, HERE / "go", {"GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local"})

    return [str(_built("go", build) / "reader")]


def node_reader() -> list[str]:
    """The reader by zongji."""
    npm, node = _program("npm"), _program("node")

    def build(target: Path) -> None:
        for source in (HERE / "node").iterdir():
            shutil.copy(source, target)
        _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], target)

    return [node, str(_built("node", build) / "reader.js")]


def java_program(project: str, name: str) -> list[str]:
    """A class of one of the Java projects."""
    java, javac, mvn = _program("java"), _program("javac"), _program("mvn")

    def build(target: Path) -> None:
        folder = HERE / "java" / project
        jars = target / "jars"
        words = [f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
        _run([mvn, "-B", "-q", "-f", str(folder / "pom.xml"), MAVEN_PLUGIN, *words], target)
        sources = [str(source) for source in sorted(folder.glob("*.java"))]
        _run([javac, "-cp", f"{jars}/*", "-d", str(target / "classes"), *sources], target)

    built = _built(f"java-{project}", build)
    # Two cores: a small heap and the simple collector leave them to the servers.
    options = ["-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return [java, *options, "-cp", f"{built}/classes:{built}/jars/*", name]


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UnreachableError(f"no {name} on PATH")
    return found


def _built(name: str, build: Callable[[Path], None]) -> Path:
    """The directory of a build of what the sources are now; `build` fills a new one."""
    folder = HERE / name.replace("-", "/")
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for source in sorted(folder.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    cache = installations.cache_directory() / "clients"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{name}-{digest.hexdigest()[:12]}"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        partial = target.with_name(target.name + ".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        began = time.monotonic()
        sys.stderr.write(f"clients: building {name}\n")
        build(partial)
        for old in cache.glob(f"{name}-????????????"):
            shutil.rmtree(old)
        partial.rename(target)
        sys.stderr.write(f"clients: built {name} in {time.monotonic() - began:.0f} s\n")
    return target


def _run(
    command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
) -> None:
    try:
        answer = subprocess.run(
            list(command),
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"{Path(command[0]).name} took over {BUILD_SECONDS:.0f} s") from None
    if answer.returncode != 0:
        sys.stderr.write(answer.stdout[-4000:] + "\n")
        lines = [line for line in answer.stdout.splitlines() if line.strip()] or ["no output"]
        raise UnreachableError(f"{Path(command[0]).name} failed: {lines[0][:160]}")
