"""What an archive needs of a store of objects: names, bytes, and no replacing.

All calls block and belong into worker threads. An object appears whole or not at all, and is never
replaced. Keys have `/` between their parts. All raise StoreError; `put` and `finish` also
ConflictError when there is an object of that name.
"""

from typing import Protocol


class Upload(Protocol):
    """A large object on its way, in parts, in order. What came of an earlier try is used again."""

    def put(self, data: bytes) -> bool:
        """Adds the next part; whether it had to be sent. All but the last have the same size.

        Where the earlier try had another part, StoreError may say that all of it begins anew.
        """
        ...

    def finish(self) -> None:
        """Makes the object of all parts."""
        ...


class Store(Protocol):
    """A directory, a bucket."""

    @property
    def shown(self) -> str:
        """What people call it; no secrets."""
        ...

    def size(self, key: str) -> int | None:
        """An object's bytes; None where there is none."""
        ...

    def get(self, key: str, start: int, size_max: int) -> bytes:
        """A run of an object's bytes; fewer only at its end."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """A small object."""
        ...

    def upload(self, key: str) -> Upload:
        """Begins a large one, or goes on with it."""
        ...

    def names(self, prefix: str) -> list[str]:
        """All keys that begin so, in order."""
        ...
