"""Where the real MySQL servers and their tools lie, and how each is called.

Knows paths and command lines only: `scripts/servers` puts the files there, `servers.py` runs them.
Nothing but the standard library is imported, because the scripts use this before the virtual
environment exists.

Three servers: MySQL 9 (today's protocol) from a directory of its own, whose libraries are newer
than the machine's, so that it is started through its own dynamic loader; MySQL 5.6, the oldest
server with GTIDs; and MariaDB, started as MySQL 9 is.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

MYSQL_9 = "mysql-9"
MYSQL_56 = "mysql-5.6"
MARIADB = "mariadb"
MARIADB_SUITE = "bookworm"


class MissingServerError(Exception):
    """A real server that a test or script needs is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One installed server: the words before its own options, and what it needs around it."""

    name: str
    version: tuple[int, ...]
    mysqld: tuple[str, ...]
    """Command line up to the point where `--defaults-file` goes."""
    settings: tuple[str, ...]
    """Lines of the [mysqld] section that say where the installation lies."""
    environment: dict[str, str] = field(default_factory=dict)
    directory: Path | None = None
    """The working directory that it must be started in, where that matters."""
    scripts: tuple[Path, ...] = ()
    """SQL that makes the system tables, for a server that does not make them itself."""


def cache_directory() -> Path:
    """Where downloaded servers are kept: `KINGBUS_CACHE`, or `.cache` in the repository."""
    given = os.environ.get("KINGBUS_CACHE")
    return Path(given).resolve() if given else REPOSITORY / ".cache"


def root_directory() -> Path:
    """The directory that holds the unpacked packages of MySQL 9 and the libraries they need."""
    return cache_directory() / "mysql-9-root"


def old_directory() -> Path:
    """The directory that holds the unpacked MySQL 5.6."""
    return cache_directory() / "mysql-5.6"


def modern() -> Installation:
    """MySQL 8 or newer: `KINGBUS_MYSQLD`, a `mysqld` on PATH that is MySQL, or the cached one."""
    given = os.environ.get("KINGBUS_MYSQLD")
    if given:
        version = _version((given,))
        if version is None:
            raise MissingServerError(
                f"KINGBUS_MYSQLD={given} is not MySQL 8 or newer; unset it to have one fetched"
            )
        return Installation(name=MYSQL_9, version=version, mysqld=(given,), settings=())
    found = shutil.which("mysqld")
    if found is not None:
        version = _version((found,))
        if version is not None:
            return Installation(name=MYSQL_9, version=version, mysqld=(found,), settings=())
    root = root_directory()
    program = root / "usr/sbin/mysqld"
    if not program.exists():
        raise MissingServerError(f"no MySQL 9 in {root}; run scripts/servers to fetch it")
    return _unpacked(MYSQL_9, root, program, _version, share=root / "usr/share/mysql")


def _unpacked(
    name: str,
    root: Path,
    program: Path,
    version_of: Callable[[tuple[str, ...]], tuple[int, ...] | None],
    *,
    share: Path,
) -> Installation:
    """A server out of a distribution's packages, with the libraries that came with it."""
    command = _through_own_loader(root, program)
    version = version_of(command)
    if version is None:
        raise MissingServerError(f"{program} does not start; remove {root} and run scripts/servers")
    return Installation(
        name=name,
        version=version,
        mysqld=command,
        settings=(
            f"basedir={root}/usr",
            f"lc_messages_dir={share}",
            f"character_sets_dir={share}/charsets",
            f"plugin_dir={root}/usr/lib/mysql/plugin",
        ),
    )


def old() -> Installation:
    """MySQL 5.6."""
    server = old_directory() / "package/server"
    if not (server / "mysqld").exists():
        raise MissingServerError(f"no MySQL 5.6 in {server}; run scripts/servers to fetch it")
    return Installation(
        name=MYSQL_56,
        version=(5, 6, 24),
        mysqld=(f"{server}/mysqld",),
        settings=(f"basedir={server}", f"lc_messages_dir={server}/share"),
        environment={"LD_LIBRARY_PATH": str(server)},
        directory=server,
        scripts=_system_scripts(server / "share", "mysql"),
    )


def mariadb_suite() -> str:
    """The release of Debian whose MariaDB is used: `KINGBUS_MARIADB_SUITE`, or Debian 12."""
    return os.environ.get("KINGBUS_MARIADB_SUITE") or MARIADB_SUITE


def mariadb_directory() -> Path:
    """The directory that holds the unpacked packages of MariaDB and the libraries they need."""
    suite = mariadb_suite()
    return cache_directory() / ("mariadb-root" if suite == MARIADB_SUITE else f"mariadb-{suite}")


def mariadb() -> Installation:
    """MariaDB; always the cached one."""
    root = mariadb_directory()
    program = root / "usr/sbin/mariadbd"
    if not program.exists():
        raise MissingServerError(f"no MariaDB in {root}; run scripts/servers to fetch it")
    share = _mariadb_share(root)
    unpacked = _unpacked(MARIADB, root, program, _mariadb_version, share=share)
    return replace(unpacked, scripts=_system_scripts(share, share.name))


def _mariadb_share(root: Path) -> Path:
    """Its messages and scripts, which have a directory of the new name since Debian 13."""
    new = root / "usr/share/mariadb"
    return new if (new / "charsets").exists() else root / "usr/share/mysql"


def _system_scripts(directory: Path, prefix: str) -> tuple[Path, ...]:
    names = (f"{prefix}_system_tables.sql", f"{prefix}_system_tables_data.sql")
    return tuple(directory / name for name in names)


def mariadb_tool(name: str) -> tuple[str, ...]:
    """The command of a MariaDB client program, such as `mariadb-binlog`; its options follow."""
    root = mariadb_directory()
    program = root / "usr/bin" / name
    if not program.exists():
        raise MissingServerError(f"no {name} in {root}; run scripts/servers to fetch it")
    plugins = root / "usr/lib/x86_64-linux-gnu/libmariadb3/plugin"
    # From 11.4 on a client insists on TLS unless it is told otherwise.
    trusting = "--skip-ssl-verify-server-cert"
    options = ("--no-defaults", f"--plugin-dir={plugins}", trusting)
    return (*_through_own_loader(root, program), *options)


def tool(name: str) -> tuple[str, ...]:
    """The command of a MySQL client program, such as `mysqlbinlog`, that speaks to both servers.

    It is taken from beside `KINGBUS_MYSQLD`, from PATH if that one is MySQL's, or from the cache,
    and reads no configuration file. The program's own options follow.
    """
    given = os.environ.get("KINGBUS_MYSQLD")
    if given:
        for folder in (Path(given).parent, Path(given).parent.parent / "bin"):
            if (folder / name).exists():
                return (str(folder / name), "--no-defaults")
    found = shutil.which(name)
    if found is not None and _version((found,)) is not None:
        return (found, "--no-defaults")
    root = root_directory()
    program = root / "usr/bin" / name
    if not program.exists():
        raise MissingServerError(f"no {name} of MySQL found; run scripts/servers to fetch it")
    # The client's plugin for the password form of MySQL 5.6 lies beside the server's plugins.
    options = ("--no-defaults", f"--plugin-dir={root}/usr/lib/mysql/plugin")
    return (*_through_own_loader(root, program), *options)


def _through_own_loader(root: Path, program: Path) -> tuple[str, ...]:
    libraries = (
        f"{root}/usr/lib/x86_64-linux-gnu",
        f"{root}/lib/x86_64-linux-gnu",
        f"{root}/usr/lib/mysql/private",
    )
    name = "ld-linux-x86-64.so.2"
    loader = f"{root}/usr/lib64/{name}"
    if not Path(loader).exists():  # before Debian moved it; in lib64 there is an absolute link only
        loader = f"{root}/lib/x86_64-linux-gnu/{name}"
    return (loader, "--library-path", ":".join(libraries), str(program))


def _version(command: tuple[str, ...]) -> tuple[int, ...] | None:
    """The version of a MySQL program; None if it is older than 8, MariaDB's, or does not run."""
    version, is_mariadb = _says(command)
    return version if version is not None and version >= (8,) and not is_mariadb else None


def _mariadb_version(command: tuple[str, ...]) -> tuple[int, ...] | None:
    """The version of a MariaDB program; None if it is another one's, or does not run."""
    version, is_mariadb = _says(command)
    return version if is_mariadb else None


def _says(command: tuple[str, ...]) -> tuple[tuple[int, ...] | None, bool]:
    """What a program says of itself: its version if it runs, and whether it is MariaDB's."""
    try:
        answer = subprocess.run(
            [*command, "--no-defaults", "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except OSError:
        return None, False
    found = re.search(r"Ver (\d+)\.(\d+)\.(\d+)", answer.stdout)
    if answer.returncode != 0 or found is None:
        return None, False
    return tuple(int(number) for number in found.groups()), "MariaDB" in answer.stdout
