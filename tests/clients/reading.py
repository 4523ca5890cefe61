"""What a reader of the binary log has told: its lines, as transactions in their order.

Knows the lines only (docs/testing.md): not which client prints them, nor how it is started.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

CHANGES = ("insert", "update", "delete")


@dataclass(slots=True)
class Transaction:
    """One transaction as the client gave it."""

    gtid: str = ""
    changes: list[str] = field(default_factory=list)
    """Rows and statements, each as the client printed it."""
    is_whole: bool = False
    """Whether its end came."""
    place: tuple[str, int] = ("", 0)
    """File and position behind it, if the client tells them."""
    gtids: str = ""
    """The set that the client would go on with behind it, if it tells one."""


class UnreadableError(Exception):
    """A client printed what is no line of a reading."""


class Reading:
    """The lines of one client, which may have been started several times."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self.transactions: list[Transaction] = []
        self.counts: Counter[str] = Counter()
        """Rows changed, by kind of change."""

    def take(self, line: str) -> None:
        """One more line; UnreadableError if it is not as agreed."""
        try:
            fields: dict[str, Any] = dict(json.loads(line))
            kind = fields.pop("kind")
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableError(f"a line that is not as agreed: {line[:200]!r}") from error
        if kind == "begin":
            if self.transactions and self.transactions[-1].gtid == fields["gtid"]:
                # A client that came back by itself gets the one that was cut anew.
                self.drop_unfinished()
            self.transactions.append(Transaction(gtid=fields["gtid"]))
            return
        if "gtid" in fields:
            # Each change tells its transaction; nothing tells where one ends.
            self._change_of(fields.pop("gtid") or "", fields)
            return
        last = self._open()
        if kind == "end":
            last.is_whole = True
            last.place = (str(fields["file"]), int(fields["position"]))
            last.gtids = str(fields.get("gtids", ""))
            return
        self._change(last, fields)

    def _change_of(self, gtid: str, fields: dict[str, Any]) -> None:
        if not self.transactions or self.transactions[-1].gtid != gtid:
            self.transactions.append(Transaction(gtid=gtid, is_whole=True))
        self._change(self.transactions[-1], fields)

    def _change(self, transaction: Transaction, fields: dict[str, Any]) -> None:
        if fields.get("change") in CHANGES:
            self.counts[fields["change"]] += 1
        transaction.changes.append(json.dumps(fields, sort_keys=True))

    def _open(self) -> Transaction:
        if not self.transactions or self.transactions[-1].is_whole:
            self.transactions.append(Transaction())
        return self.transactions[-1]

    def drop_unfinished(self) -> None:
        """Forget the transaction whose end did not come: whoever goes on gets it again."""
        while self.transactions and not self.transactions[-1].is_whole:
            self._uncount(self.transactions.pop())

    def drop_repeated(self) -> None:
        """Forget each transaction that is the one before it once more, change by change."""
        kept: list[Transaction] = []
        for each in self.transactions:
            before = kept[-1] if kept else Transaction()
            if each.gtid and (each.gtid, each.changes) == (before.gtid, before.changes):
                self._uncount(each)
            else:
                kept.append(each)
        self.transactions = kept

    def _uncount(self, transaction: Transaction) -> None:
        for change in transaction.changes:
            self.counts[json.loads(change).get("change")] -= 1

    def has(self, mark: str) -> bool:
        """Whether a whole transaction carries this text in a change."""
        return any(
            mark in change
            for transaction in self.transactions
            if transaction.is_whole
            for change in transaction.changes
        )

    def up_to(self, mark: str) -> list[Transaction]:
        """The transactions that changed something, up to the one with this text, included."""
        found = []
        for transaction in self.transactions:
            if transaction.changes:
                found.append(transaction)
            if any(mark in change for change in transaction.changes):
                break
        return found


def difference(got: Sequence[Transaction], wanted: Sequence[Transaction]) -> str:
    """How two readings differ: empty if they have the same transactions, in order, each once."""
    repeated = [gtid for gtid, times in Counter(_named(got)).items() if times > 1]
    if repeated:
        return f"{len(repeated)} transactions came twice, the first is {repeated[0]}"
    for at, (one, other) in enumerate(zip(got, wanted, strict=False)):
        if (one.gtid, one.changes) != (other.gtid, other.changes):
            return (
                f"transaction {at} is {one.gtid} {_short(one.changes)},"
                f" from the source {other.gtid} {_short(other.changes)}"
            )
    if len(got) != len(wanted):
        return f"{len(got)} transactions, from the source {len(wanted)}"
    return ""


def _named(transactions: Iterable[Transaction]) -> list[str]:
    return [transaction.gtid for transaction in transactions if transaction.gtid]


def _short(changes: Sequence[str]) -> str:
    return f"({len(changes)} changes, {' '.join(changes)[:160]})"
