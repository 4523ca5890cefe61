"""What processes need while they are measured, as Linux tells it: memory, page cache, CPU time.

A node counts with the processes that it started. Reading is from /proc; the parsers take text.
"""

import contextlib
import ctypes
import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from scripts.benchmark.figures import Usage

SAMPLE_SECONDS = 0.05
"""How often memory is looked at: a peak that is shorter may be missed."""
_FAMILY_SAMPLES = 20
"""How many samples apart a node's processes are looked for: that reads a file for each thread."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
_libc = ctypes.CDLL(None, use_errno=True)


def memory_of(status: str) -> tuple[int, int]:
    """Anonymous and file-mapped bytes (shared memory counts as anonymous), by /proc/PID/status."""
    sizes = {"RssAnon:": 0, "RssFile:": 0, "RssShmem:": 0}
    for line in status.splitlines():
        words = line.split()
        if words and words[0] in sizes:
            sizes[words[0]] = int(words[1]) * 1024
    return sizes["RssAnon:"] + sizes["RssShmem:"], sizes["RssFile:"]


def cpu_seconds_of(stat: str) -> float:
    """CPU time of a process and of those of its children that ended, by /proc/PID/stat."""
    # The name of the program, in parentheses, may have spaces and parentheses in it.
    fields = stat.rpartition(")")[2].split()
    return sum(int(each) for each in fields[11:15]) / _TICKS


def family(pid: int) -> list[int]:
    """A process and all that it started and that are still there."""
    found = [pid]
    for known in found:
        with _gone_is_fine():
            for task in (_PROC / str(known) / "task").iterdir():
                with _gone_is_fine():
                    found += [int(each) for each in (task / "children").read_text().split()]
    return found


def memory(pids: Iterable[int]) -> tuple[int, int]:
    """Anonymous and file-mapped bytes of some processes together."""
    anonymous = file = 0
    for pid in pids:
        with _gone_is_fine():
            one, two = memory_of((_PROC / str(pid) / "status").read_text())
            anonymous, file = anonymous + one, file + two
    return anonymous, file


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time so far of some processes together."""
    total = 0.0
    for pid in pids:
        with _gone_is_fine():
            total += cpu_seconds_of((_PROC / str(pid) / "stat").read_text())
    return total


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        yield


class Watch:
    """Samples the memory of nodes while it is open, and takes their CPU time from end to end.

    `directories` are the nodes' data directories: at the end they are looked for in the page cache.
    """

    def __init__(self, pids: Sequence[int], directories: Sequence[Path] = ()) -> None:
        self._pids = list(pids)
        self._directories = list(directories)
        self._anonymous = 0
        self._file = 0
        self._cached = 0
        self._families: dict[int, list[int]] = {}
        self._cpu: dict[int, float] = {}
        self._began: dict[int, float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._meet()
        self._began = {pid: cpu_seconds(each) for pid, each in self._families.items()}
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        self._cpu = {pid: cpu_seconds(family(pid)) - began for pid, began in self._began.items()}
        self._end.set()
        self._thread.join()
        if kind is None:
            self._meet()
            self._look()
            self._cached = max((cached_bytes(each) for each in self._directories), default=0)

    @property
    def usage(self) -> Usage:
        """What was seen; whole once it is closed."""
        return Usage(
            anonymous_bytes=self._anonymous,
            file_bytes=self._file,
            page_cache_bytes=self._cached,
            cpu_seconds=sum(self._cpu.values()),
        )

    @property
    def most_cpu_seconds(self) -> float:
        """CPU time of the node that needed most."""
        return max(self._cpu.values(), default=0.0)

    def _sample(self) -> None:
        samples = 0
        while not self._end.wait(SAMPLE_SECONDS):
            samples += 1
            if samples % _FAMILY_SAMPLES == 0:
                self._meet()
            self._look()

    def _meet(self) -> None:
        self._families = {pid: family(pid) for pid in self._pids}

    def _look(self) -> None:
        for processes in self._families.values():
            anonymous, file = memory(processes)
            self._anonymous = max(self._anonymous, anonymous)
            self._file = max(self._file, file)


def cached_bytes(directory: Path) -> int:
    """How much of the files of a directory, and of those below it, lies in the page cache."""
    return sum(_cached(file) for file in directory.rglob("*") if file.is_file())


def _cached(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size == 0:
            return 0
        # A private mapping that is only asked about: no page of it is ever touched.
        with mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
            pages = (size + _PAGE - 1) // _PAGE
            resident = (ctypes.c_ubyte * pages)()
            start = ctypes.c_char.from_buffer(mapped)
            try:
                address = ctypes.c_void_p(ctypes.addressof(start))
                failed = _libc.mincore(address, ctypes.c_size_t(size), resident)
                if failed:
                    number = ctypes.get_errno()
                    raise OSError(number, f"mincore: {os.strerror(number)}", str(file))
            finally:
                # The mapping cannot be closed while something points into it.
                del start
            return _PAGE * sum(page & 1 for page in resident)
    return 0


def drop_from_cache(directory: Path) -> None:
    """Have the kernel forget the pages of all files of a directory, so that they are read anew."""
    os.sync()
    for file in directory.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
