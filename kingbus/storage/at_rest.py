"""What an entry's data look like on this node's disk: as they are, compressed, sealed, or both.

Owns the local form of a body, its way there and back, and the keys that open it. It must not know
of files, of the order of segments, nor what the data are. The form is this disk's alone: peers and
readers get the data, whose CRC32 stays the entry's checksum. A record of another form has flags in
its header; what is stored then, and summed up in that header, is

    length  u32  of the data
    nonce   12   where it is sealed
    crc     u32  CRC32 of the data; sealed with them
    the data, or one zstd frame of them
    tag     16   where it is sealed

Compression comes first, since what is sealed does not shrink. AES-GCM as in NIST SP 800-38D. From
the cluster's key one is derived for this use alone, which opens no password, and from that, with
the segment's random id, one for each segment (HKDF). Each record has a random nonce of 96 bits: the
few million that one key seals meet one twice with a chance below 2^-40. Term, index, type, form and
length of the entry are bound to it as associated data: a record that is put elsewhere does not
open.
"""

import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Self

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kingbus.crc import crc32
from kingbus.secrets import KEY_BYTES, NONCE_BYTES, ClusterSecret
from kingbus.storage.errors import SealedLogError

__all__ = [
    "AS_THEY_ARE",
    "COMPRESSED",
    "FORMS",
    "FORM_BYTES_MAX",
    "LENGTH_BYTES",
    "SEALED",
    "AtRest",
    "AtRestStatus",
    "Keyring",
    "Packed",
    "Packer",
    "RestKey",
    "data_length",
    "open_body",
]

COMPRESSED: Final = 1
SEALED: Final = 2
FORMS: Final = COMPRESSED | SEALED
"""All flags that this version knows."""

COMPRESS_BYTES_MIN: Final = 512
"""Smaller bodies are single small transactions, of which a frame saves a few dozen bytes."""
SAVED_PART_MIN: Final = 16
"""A frame must save a sixteenth at least: less is not worth opening it at each reading."""
CIPHERS_MAX: Final = 64
"""Derived keys kept at a time: of more segments nobody reads at once."""

FORM_BYTES_MAX: Final = 36
"""What a form adds to an entry's data at most: length, nonce, sum and tag."""

_LENGTH = struct.Struct("<I")
_CRC = struct.Struct("<I")
LENGTH_BYTES: Final = _LENGTH.size
_TAG_BYTES = 16
_BOUND = struct.Struct("<BBIQQ")
_PURPOSE = b"kingbus log at rest"

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class RestKey:
    """What a cluster key gives for logs at rest. `key_id` is the cluster key's."""

    key_id: str
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: ClusterSecret) -> Self:
        """The same for the same secret, on every node; nobody gets back from it."""
        return cls(key_id=secret.key_id, key=_derived(secret.key, b""))


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRest:
    """How entries are to be written from now on: by default as they are.

    `level` is zstd's, 0 for no compression; `key` seals, None for no sealing.
    """

    level: int = 0
    key: RestKey | None = None

    @property
    def transforms(self) -> bool:
        """Whether any entry may be stored otherwise than it is."""
        return bool(self.level) or self.key is not None

    @property
    def key_id(self) -> str:
        """Of the key that seals; empty for none."""
        return self.key.key_id if self.key is not None else ""


AS_THEY_ARE: Final = AtRest()
"""What holds without a setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRestStatus:
    """How a log is written, what that saved and cost since the start, and what it holds.

    `data_bytes` are of entries before, `stored_bytes` behind the transformation, `seconds` the
    processor time of it; all 0 where nothing is transformed. Of all segments some may hold
    compressed or sealed entries, and of those some are sealed.
    """

    level: int
    key_id: str
    data_bytes: int = 0
    stored_bytes: int = 0
    seconds: float = 0.0
    segments: int = 0
    transformed_segments: int = 0
    sealed_segments: int = 0


class Keyring:
    """The keys by their ids, and the ciphers that segments have of them. Safe from any thread."""

    def __init__(self, keys: Iterable[RestKey] = ()) -> None:
        self._keys = {key.key_id: key for key in keys}
        self._lock = Lock()
        self._ciphers: OrderedDict[tuple[str, bytes], AESGCM] = OrderedDict()

    def __iter__(self) -> Iterator[RestKey]:
        return iter(self._keys.values())

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def only(self, key_ids: Iterable[str]) -> "Keyring":
        """A keyring of those of these keys that are here."""
        return Keyring(self._keys[key_id] for key_id in set(key_ids) if key_id in self._keys)

    def require(self, key_id: str, what: object) -> None:
        """SealedLogError, naming what is sealed, when that key is not here."""
        if key_id in self._keys:
            return
        held = ", ".join(sorted(self._keys)) or "none"
        raise SealedLogError(
            f"{what} is sealed with cluster key {key_id}, and this node has {held}"
        )

    def cipher(self, key_id: str, segment_id: bytes) -> AESGCM:
        """What seals and opens the records of one segment; KeyError for a key that is not here."""
        name = (key_id, segment_id)
        with self._lock:
            cipher = self._ciphers.get(name)
            if cipher is not None:
                self._ciphers.move_to_end(name)
                return cipher
        cipher = AESGCM(_derived(self._keys[key_id].key, segment_id))
        with self._lock:
            self._ciphers[name] = cipher
            if len(self._ciphers) > CIPHERS_MAX:
                self._ciphers.popitem(last=False)
        return cipher


def _derived(key: bytes, salt: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=_PURPOSE).derive(key)


def _bound(flags: int, length: int, *, index: int, term: int, entry_type: int) -> bytes:
    return _BOUND.pack(flags, entry_type, length, index, term)


@dataclass(frozen=True, slots=True)
class Packed:
    """An entry's data on the way to the disk: what is left is to be sealed, where `flags` say so.

    `length` and `crc` are those of the data, `body` the data or their frame.
    """

    flags: int
    length: int
    crc: int
    body: Bytes

    @property
    def size(self) -> int:
        """Bytes that will be stored."""
        size = LENGTH_BYTES + _CRC.size + len(self.body)
        return size + NONCE_BYTES + _TAG_BYTES if self.flags & SEALED else size


class Packer:
    """Brings entries into the form in which they are stored. One thread at a time.

    The two steps stand apart because the size decides which segment a record goes to, and the
    segment what it is sealed with. `random` gives that many unpredictable bytes.
    """

    def __init__(self, at_rest: AtRest, keys: Keyring, random: Callable[[int], bytes]) -> None:
        self._compressor = zstandard.ZstdCompressor(level=at_rest.level) if at_rest.level else None
        self._key_id = at_rest.key_id
        self._keys = keys
        self._random = random
        self.data_bytes = 0
        self.stored_bytes = 0
        self.seconds = 0.0

    def pack(self, data: Bytes, checksum: int | None) -> Packed | None:
        """The first step; None for data that are stored as they are. `checksum` is their CRC32."""
        began = time.thread_time()
        length = len(data)
        body, flags = data, 0
        if self._compressor is not None and length >= COMPRESS_BYTES_MIN:
            frame = self._compressor.compress(data)
            if len(frame) <= length - length // SAVED_PART_MIN:
                body, flags = frame, COMPRESSED
        if self._key_id:
            flags |= SEALED
        self.data_bytes += length
        packed = None
        if flags:
            packed = Packed(flags, length, crc32(data) if checksum is None else checksum, body)
        self.stored_bytes += packed.size if packed is not None else length
        self.seconds += time.thread_time() - began
        return packed

    def finish(
        self, packed: Packed, segment_id: bytes, *, index: int, term: int, entry_type: int
    ) -> tuple[bytes, int]:
        """The second step, for an entry of this segment: what is stored, and its CRC32."""
        began = time.thread_time()
        flags, length = packed.flags, packed.length
        head = _LENGTH.pack(length)
        rest = b"".join((_CRC.pack(packed.crc), packed.body))
        if flags & SEALED:
            nonce = self._random(NONCE_BYTES)
            bound = _bound(flags, length, index=index, term=term, entry_type=entry_type)
            rest = self._keys.cipher(self._key_id, segment_id).encrypt(nonce, rest, bound)
            head += nonce
        stored = head + rest
        checksum = crc32(stored)
        self.seconds += time.thread_time() - began
        return stored, checksum


def data_length(stored: Bytes) -> int:
    """How long the data are, by the first LENGTH_BYTES of what is stored; ValueError for less."""
    if len(stored) < LENGTH_BYTES:
        raise ValueError("too short for its form")
    return int(_LENGTH.unpack_from(stored)[0])


def open_body(
    stored: Bytes,
    flags: int,
    cipher: AESGCM | None,
    *,
    index: int,
    term: int,
    entry_type: int,
) -> tuple[bytes, int]:
    """The data that were stored, and their CRC32, which was verified.

    `cipher` is that of the segment, needed where `flags` say that it is sealed. ValueError tells
    why it is not what was written.
    """
    length = data_length(stored)
    if flags & ~FORMS:
        raise ValueError(f"it has a form unknown to this version ({flags:#x})")
    rest = memoryview(stored)[LENGTH_BYTES:]
    if flags & SEALED:
        assert cipher is not None, "sealed"
        bound = _bound(flags, length, index=index, term=term, entry_type=entry_type)
        try:
            rest = memoryview(cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], bound))
        except (InvalidTag, ValueError):
            raise ValueError("its seal does not open: it was changed, or moved here") from None
    if len(rest) < _CRC.size:
        raise ValueError("too short for its form")
    crc, body = int(_CRC.unpack_from(rest)[0]), rest[_CRC.size :]
    data = _decompressed(body, length) if flags & COMPRESSED else bytes(body)
    if len(data) != length or crc32(data) != crc:
        raise ValueError("what comes out of it does not verify")
    return data, crc


def _decompressed(frame: memoryview, length: int) -> bytes:
    """ValueError for what is no frame of that many bytes, before room is taken for it."""
    try:
        if zstandard.frame_content_size(frame) != length:
            raise ValueError("its frame is not of the length that is noted")
        # A context of its own: several threads read at a time.
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(f"its frame does not open: {error}") from None
