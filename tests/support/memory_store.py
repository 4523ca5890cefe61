"""An archive's store in memory, which may be away for a while."""

from kingbus.archive.errors import ConflictError, StoreError


class MemoryStore:
    """See `kingbus.archive.store.Store`. `calls_left`: then it is away, until that is changed."""

    shown = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, list[bytes]] = {}
        self.calls_left = 1 << 30
        self.order: list[str] = []
        self.largest_get = 0

    def _call(self) -> None:
        if self.calls_left <= 0:
            raise StoreError("the store is away")
        self.calls_left -= 1

    def size(self, key: str) -> int | None:
        self._call()
        return len(self.objects[key]) if key in self.objects else None

    def get(self, key: str, start: int, size_max: int) -> bytes:
        self._call()
        found = self.objects[key][start : start + size_max]
        self.largest_get = max(self.largest_get, len(found))
        return found

    def put(self, key: str, data: bytes) -> None:
        self._call()
        if key in self.objects:
            raise ConflictError(f"{key} is there already")
        self.objects[key] = data
        self.order.append(key)

    def upload(self, key: str) -> "MemoryUpload":
        self._call()
        return MemoryUpload(self, key)

    def names(self, prefix: str) -> list[str]:
        self._call()
        return sorted(key for key in self.objects if key.startswith(prefix))


class MemoryUpload:
    def __init__(self, store: MemoryStore, key: str) -> None:
        self._store = store
        self._key = key
        self._number = 0

    def put(self, data: bytes) -> bool:
        self._store._call()
        parts = self._store.parts.setdefault(self._key, [])
        self._number += 1
        if parts[self._number - 1 : self._number] == [data]:
            return False
        del parts[self._number - 1 :]
        parts.append(data)
        return True

    def finish(self) -> None:
        parts = self._store.parts[self._key][: self._number]
        self._store.put(self._key, b"".join(parts))
        del self._store.parts[self._key]
