"""The matrix: every crash point and every kind of damage, and what a start made of each."""

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.damage.history import History, made
from tests.damage.member import Machine, Promised, Verdict, VolatileMachine, live, look
from tests.damage.places import copy, damages
from tests.unit.storage.simulated_disk import PowerLostError

GOOD = ("up", "refused")
BAD = ("lost", "wrong", "unclear")


@dataclass
class Matrix:
    """How often what came of what; `failures` are those that must not be."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def note(self, kind: str, what: str, verdict: Verdict, *, may_refuse: bool = True) -> None:
        """One injection."""
        self.counts[kind, verdict.outcome] += 1
        if verdict.outcome in BAD or (verdict.outcome == "refused" and not may_refuse):
            self.failures.append(f"{kind}: {what}: {verdict.outcome}: {verdict.reason}")

    def table(self) -> Iterator[str]:
        """Lines: kind of injection, how many, and what came of them."""
        columns = ("tried", *GOOD, *BAD)
        kinds = sorted({kind for kind, _ in self.counts})
        width = max(map(len, kinds), default=0)
        yield " " * width + "".join(f"{column:>9}" for column in columns)
        for kind in (*kinds, "total"):
            row = [
                sum(
                    count
                    for (each, outcome), count in self.counts.items()
                    if kind in {each, "total"} and column in {outcome, "tried"}
                )
                for column in columns
            ]
            yield f"{kind:<{width}}" + "".join(f"{number:>9}" for number in row)


def crashes(
    matrix: Matrix,
    directory: Path,
    *,
    seed: int,
    every: int = 1,
    history: History | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Stop at each `every`th call of the file system: the process, and the machine.

    A power loss keeps none, some or all of what was not synced, in any order of sectors.
    """
    history = history or made()
    rng = random.Random(seed)
    for kind, keep in (
        ("process killed", None),
        ("power lost, nothing unsynced stays", 0.0),
        ("power lost, some of it stays", 0.5),
        ("power lost, most of it stays", 0.95),
        ("power lost, all of it stays", 1.0),
    ):
        operations, ended = rng.randrange(every), False
        while not ended:
            machine = VolatileMachine(directory / f"{kind} {operations}", seed=rng.getrandbits(32))
            promised = Promised()
            machine.disk.operations_left = operations
            try:
                live(machine, history, promised)
                ended = True
            except PowerLostError:
                pass
            machine.disk.operations_left = None
            if keep is None:
                machine.kill()
            else:
                machine.lose_power(keep)
            # Twice: what a start itself writes must not change what is there.
            for again in ("", ", started again"):
                verdict = look(machine, history, promised)
                matrix.note(kind, f"call {operations}{again}", verdict, may_refuse=False)
                machine.kill()
            operations += every
            told(kind)


def damaged(
    matrix: Matrix,
    directory: Path,
    *,
    seed: int,
    each: int,
    history: History | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Damage a real directory, RocksDB and all, in one place at a time, and start on it."""
    history = history or made()
    closed, killed, promised = directory / "closed", directory / "killed", Promised()
    live(Machine(closed), history, promised, before_end=lambda: copy(closed, killed))
    for whole in (closed, killed):
        verdict = look(
            Machine(copy(whole, directory / f"{whole.name} untouched")), history, promised
        )
        matrix.note("no damage", whole.name, verdict, may_refuse=False)
    # Of a process that was killed the newest writes vouch for nothing: only its database, whose
    # own log is not empty then, is damaged.
    for whole, below in ((closed, ""), (killed, "state")):
        for damage in damages(whole, seed=seed, each=each, below=below):
            with tempfile.TemporaryDirectory(dir=directory) as name:
                target = copy(whole, Path(name) / "member")
                damage.inflict(target)
                verdict = look(Machine(target), history, promised)
                matrix.note(damage.kind, f"{damage.file} {damage.how}", verdict)
                told(damage.kind)
