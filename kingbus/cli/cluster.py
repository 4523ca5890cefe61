"""`kingbus cluster ...`: what concerns all nodes at once."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from kingbus.cli.common import DEFAULT_ADMIN_URL, Admin, Json, TokenFile, client, say, show_json
from kingbus.errors import KingbusError

if TYPE_CHECKING:
    from kingbus.admin.client import AdminClient

app = typer.Typer(help="All nodes of the cluster.", no_args_is_help=True)

_GONE = 410
STATE_TRIES = 20
STATE_LEAD_MAX = 4096
"""Entries ahead of the newest node's; as many as a loaded cluster applies in a second or two."""


class DifferError(KingbusError):
    """Nodes that should hold the same do not."""

    hint = "kingbus storage verify and repair on that node; or replace it"


class NotComparedError(KingbusError):
    """A node did not answer, so what it holds is not known."""


class NotHeldError(NotComparedError):
    """A node does not hold what it was asked for any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A member that is asked; its client is safe to use from one thread at a time."""

    name: str
    api: "AdminClient"


@app.callback()
def _group() -> None:
    """Keep `scrub` a subcommand while it is the only one."""


@app.command()
def scrub(
    admin: Admin = DEFAULT_ADMIN_URL, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """Compare the nodes' logs, file by file, and their relay state; name what differs."""
    with ExitStack() as stack:
        nodes = _nodes(stack, admin, token_file)
        pool = stack.enter_context(ThreadPoolExecutor(len(nodes)))
        found = _scrubbed(nodes, pool)
    if as_json:
        show_json(found)
    else:
        for file in found["files"]:
            say(f"{file['name']}: {file['result']}")
        say(f"relay state: {found['state']}")
    if found["differ"]:
        raise DifferError("; ".join(found["differ"]))


def _nodes(stack: ExitStack, admin: str, token_file: Any) -> list[Node]:
    members = stack.enter_context(client(admin, token_file)).ask("GET", "/cluster")
    nodes = []
    for member in members:
        if not member["adminURLs"]:
            raise NotComparedError(f"{member['name']} has not told its admin URL")
        api = stack.enter_context(client(member["adminURLs"][0], token_file))
        nodes.append(Node(name=member["name"], api=api))
    return nodes


class _Asking:
    """Asks all nodes at once; the first that does not answer ends it."""

    def __init__(self, nodes: Sequence[Node], pool: ThreadPoolExecutor) -> None:
        self._nodes = nodes
        self._pool = pool

    def __call__(self, path: Callable[[Node], str]) -> dict[str, Any]:
        futures = {
            node.name: self._pool.submit(node.api.ask, "GET", path(node)) for node in self._nodes
        }
        answers = {}
        for name, future in futures.items():
            try:
                answers[name] = future.result()
            except KingbusError as error:
                gone = getattr(error, "status", 0) == _GONE
                kind = NotHeldError if gone else NotComparedError
                raise kind(f"{name}: {error}", hint=error.hint) from error
        return answers


def _scrubbed(nodes: Sequence[Node], pool: ThreadPoolExecutor) -> dict[str, Any]:
    ask = _Asking(nodes, pool)
    state, differ = _compare_state(ask)
    views = ask(lambda _: "/status")
    first = max(view["first_index"] for view in views.values())
    through = min(view["applied_index"] for view in views.values())
    files = []
    with _progress(through - first + 1) as advance:
        for name, begin, end in _stretches(nodes[0], first, through):
            compared, wrong = _compare(ask, begin, end, advance)
            is_left = compared <= end
            equal = "equal" if is_left else "purged meanwhile"
            files.append(
                {
                    "name": name,
                    "from_index": compared if is_left else begin,
                    "through_index": end,
                    "result": "; ".join(wrong) or equal,
                }
            )
            differ += [f"{name}: {each}" for each in wrong]
    return {"files": files, "state": state, "differ": differ}


def _stretches(node: Node, first: int, through: int) -> Iterator[tuple[str, int, int]]:
    """The log cut where files begin: name, first and last index."""
    files = [f for f in node.api.ask("GET", "/binlog/files") if f["first_index"] <= through]
    begins = [("before the first file", first)]
    begins += [(file["name"], max(first, file["first_index"])) for file in files]
    for (name, begin), (_, stop) in zip(begins, [*begins[1:], ("", through + 1)], strict=True):
        if begin < stop:
            yield name, begin, stop - 1


def _compare(
    ask: _Asking, begin: int, end: int, advance: Callable[[int], None]
) -> tuple[int, list[str]]:
    """What is wrong with these entries, in words that name the node; nothing if all are equal.

    With it the first index that was compared: what some node has purged meanwhile is passed over.
    """
    wrong: dict[str, None] = {}
    at = begin
    while at <= end:
        query = f"/storage/hash?from_index={at}&through_index={end}"
        try:
            answers = ask(lambda _, query=query: query)  # type: ignore[misc]
        except NotHeldError:
            first = _first_held(ask)
            if first <= at:
                raise
            advance(min(first, end + 1) - at)
            begin = at = first
            continue
        for name, answer in answers.items():
            if answer["problem"]:
                wrong[f"{name} is damaged: {answer['problem']}"] = None
        sound = {name: answer for name, answer in answers.items() if not answer["problem"]}
        sums = {name: f"{a['sha256']} {a['next_index']}" for name, a in sound.items()}
        for name in _odd(sums):
            wrong[f"{name} differs between index {at} and {end}"] = None
        following = max((answer["next_index"] for answer in sound.values()), default=end + 1)
        advance(following - at)
        at = following
    return begin, list(wrong)


def _first_held(ask: _Asking) -> int:
    """The first index that every node holds."""
    return max(int(view["first_index"]) for view in ask(lambda _: "/status").values())


def _odd(values: dict[str, str]) -> list[str]:
    """Who does not have what most have; all, when there is no most."""
    counts = Counter(values.values())
    if len(counts) <= 1:
        return []
    (value, most), *others = counts.most_common()
    if others[0][1] == most:
        return list(values)
    return [name for name, each in values.items() if each != value]


def _compare_state(ask: _Asking) -> tuple[str, list[str]]:
    """The relay state at one index of all nodes, which may have to be ahead of them."""
    lead = 0
    for _ in range(STATE_TRIES):
        index = max(view["applied_index"] for view in ask(lambda _: "/status").values()) + lead
        try:
            query = f"/storage/state?index={index}"
            found = ask(lambda _, query=query: query)  # type: ignore[misc]
        except NotComparedError as error:
            # Passed already: look farther ahead. Not reached: the load went away.
            lead = min(2 * lead + 1, STATE_LEAD_MAX) if "before its state" in str(error) else 0
            continue
        hashes = {name: answer["state_hash"] for name, answer in found.items()}
        wrong = [f"relay state at index {index}: {name} differs" for name in _odd(hashes)]
        return ("; ".join(wrong) or f"equal at index {index}"), wrong
    raise NotComparedError("the nodes were never seen at one index: try again under less load")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; `advance` takes how many entries more were compared."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scrub", total=total)
        yield lambda count: bar.advance(task, count)
