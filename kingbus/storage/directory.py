"""The data directory: who may use it, which format it has, whose it is.

    FORMAT          version of the layout, one number in text
    LOCK            held while a process uses the directory; tells its process id
    identity.json   name, member id, cluster id, when made; durable, and written again only when
                    the member is made the only voter of a new cluster
    log/            segments
    state/          database

The identity stands in a small file of its own, so that a restart, or a start on the wrong
directory, is judged before anything else is opened.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kingbus.crc import crc32
from kingbus.storage.errors import (
    CorruptRecordError,
    NewerFormatError,
    StorageError,
    WrongIdentityError,
)
from kingbus.storage.files import LocalFileSystem
from kingbus.storage.recovery import log_holds_anything, log_is_torn

__all__ = ["FORMAT_VERSION", "DataDirectory", "Identity"]

FORMAT_VERSION = 1
_VERSION = re.compile(r"[1-9][0-9]{0,8}\n?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose directory it is. `created` is a time in text (RFC 3339), for people only.

    After a recovery from a lost majority the cluster is another one, and its log goes on:
    `former_ids` are the clusters that earlier segments name, and `origin_id` is the one by which
    replicas and source know it (0: there was no other).
    """

    name: str
    member_id: int
    cluster_id: int
    created: str = ""
    origin_id: int = 0
    former_ids: tuple[int, ...] = ()

    @property
    def served_id(self) -> int:
        """The cluster id that the server id and the server uuid are derived from."""
        return self.origin_id or self.cluster_id

    def encode(self) -> bytes:
        """JSON with a sum of itself; the ids in hexadecimal, as they are shown everywhere."""
        fields: dict[str, object] = {
            "name": self.name,
            "member_id": f"{self.member_id:016x}",
            "cluster_id": f"{self.cluster_id:016x}",
            "created": self.created,
        }
        if self.origin_id:
            fields["origin_id"] = f"{self.origin_id:016x}"
        if self.former_ids:
            fields["former_ids"] = [f"{each:016x}" for each in self.former_ids]
        fields["crc"] = _sum(fields)
        return (json.dumps(fields, indent=2) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The reverse; ValueError when it is not one."""
        try:
            fields = json.loads(data)
            # Files of earlier versions have no sum.
            if "crc" in fields and fields.pop("crc") != _sum(fields):
                raise ValueError("it does not verify")
            return cls(
                name=str(fields["name"]),
                member_id=int(fields["member_id"], 16),
                cluster_id=int(fields["cluster_id"], 16),
                created=str(fields.get("created", "")),
                origin_id=int(fields.get("origin_id", "0"), 16),
                former_ids=tuple(int(each, 16) for each in fields.get("former_ids", ())),
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not an identity: {error!r}") from None


def _sum(fields: dict[str, object]) -> str:
    return f"{crc32(json.dumps(fields, sort_keys=True).encode()):08x}"


class DataDirectory:
    """A locked data directory. Made by `open_or_create` or `open_existing`; closed by `close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._files = LocalFileSystem()
        self._lock: int | None = lock
        self._identity: Identity | None = None

    @classmethod
    def open_or_create(cls, path: Path) -> Self:
        """Take the directory, making it where it is missing. Blocks.

        DirectoryInUseError when another process has it, NewerFormatError, CorruptRecordError, and
        StorageError when it cannot be used at all.
        """
        return cls._open(path, create=True)

    @classmethod
    def open_existing(cls, path: Path) -> Self:
        """The same, but StorageError where there is none: for tools."""
        return cls._open(path, create=False)

    @classmethod
    def _open(cls, path: Path, *, create: bool) -> Self:
        files = LocalFileSystem()
        try:
            if create:
                path.mkdir(mode=0o750, parents=True, exist_ok=True)
            elif not (path / "FORMAT").exists():
                raise StorageError(f"{path} is not a data directory of kingbus")
            directory = cls(path, files.lock(path / "LOCK"))
        except OSError as error:
            raise StorageError(f"cannot use the data directory {path}: {error}") from error
        try:
            directory._check_format()
            directory._identity = identity_in(path)
        except BaseException:
            directory.close()
            raise
        return directory

    def close(self) -> None:
        """Release the lock; may be called twice."""
        if self._lock is not None:
            self._files.unlock(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def log_path(self) -> Path:
        """Where LogStore lives."""
        return self.path / "log"

    @property
    def state_path(self) -> Path:
        """Where StateStore lives."""
        return self.path / "state"

    @property
    def has_log(self) -> bool:
        """Whether a member ever wrote here: a term, a vote or a snapshot. Reads little."""
        return log_holds_anything(self.log_path)

    @property
    def has_torn_log(self) -> bool:
        """Whether there are entries of a very first write that was never whole."""
        return log_is_torn(self.log_path)

    @property
    def identity(self) -> Identity | None:
        """Whose directory it is; None before bootstrap or join."""
        return self._identity

    def set_identity(self, identity: Identity) -> None:
        """Write the identity, durably. Blocks.

        WrongIdentityError when there is another one already: ids never change.
        """
        known = self._identity
        if known is not None:
            self.check_identity(
                name=identity.name, member_id=identity.member_id, cluster_id=identity.cluster_id
            )
            return
        self.write_file("identity.json", identity.encode())
        self._identity = identity

    def replace_identity(self, identity: Identity) -> None:
        """Make it another cluster's, durably, whatever it was. Blocks."""
        self.write_file("identity.json", identity.encode())
        self._identity = identity

    def check_identity(
        self,
        *,
        name: str | None = None,
        member_id: int | None = None,
        cluster_id: int | None = None,
    ) -> None:
        """WrongIdentityError when the directory is not this one's; None is not compared."""
        known = self._identity
        if known is None:
            return
        for what, wanted, found in (
            ("name", name, known.name),
            ("member id", member_id, known.member_id),
            ("cluster id", cluster_id, known.cluster_id),
        ):
            if wanted is not None and wanted != found:
                raise WrongIdentityError(
                    f"{self.path} belongs to the member with {what} {_shown(found)}, "
                    f"not {_shown(wanted)}"
                )

    def write_file(self, name: str, data: bytes, *, mode: int = 0o640) -> None:
        """Replace a small file of the directory as a whole, durably. Blocks."""
        target, temporary = self.path / name, self.path / f"{name}.new"
        try:
            temporary.unlink(missing_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            self._files.sync_directory(self.path)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error}") from error

    def _check_format(self) -> None:
        path = self.path / "FORMAT"
        try:
            text = path.read_text("ascii")
        except FileNotFoundError:
            self.write_file("FORMAT", f"{FORMAT_VERSION}\n".encode())
            return
        except (OSError, ValueError) as error:
            raise CorruptRecordError(path, 0, str(error)) from error
        if not _VERSION.fullmatch(text):
            raise CorruptRecordError(path, 0, f"{text[:40]!r} is not a format version")
        if int(text) > FORMAT_VERSION:
            raise NewerFormatError(
                f"{self.path} has format {int(text)}; this version knows up to {FORMAT_VERSION}"
            )


def identity_in(directory: Path) -> Identity | None:
    """Whose directory it is, without locking it; CorruptRecordError for what does not tell."""
    path = directory / "identity.json"
    try:
        return Identity.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptRecordError(path, 0, str(error)) from error


def _shown(value: str | int) -> str:
    return f"{value:016x}" if isinstance(value, int) else value
