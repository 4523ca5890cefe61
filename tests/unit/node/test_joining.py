"""The dial back, over real sockets: who may be added is who answers."""

import pytest
import trio

from kingbus.node.errors import DialBackError
from kingbus.node.joining import answer_dial_back, dial_back
from kingbus.transport.call import call_url
from kingbus.transport.connection import open_listener
from tests.support.memory_node import loopback_cluster


async def joiner(nursery, *, name="n4", token="ab"):
    """The peer URL of a node that waits for its dial back."""
    listener = await open_listener("127.0.0.1", 0)

    async def answer(*, task_status):
        await answer_dial_back(listener, name=name, token=token, task_status=task_status)

    await nursery.start(answer)
    return f"http://127.0.0.1:{listener.socket.getsockname()[1]}"


async def test_the_joiner_that_asked_answers(nursery):
    """Name and token as in the request: nothing is raised, as often as it is asked."""
    url = await joiner(nursery)
    for _ in range(2):
        await dial_back(url, name="n4", token="ab")


@pytest.mark.parametrize(("name", "token"), [("n5", "ab"), ("n4", "cd"), ("n4", "")])
async def test_another_joiner_is_not_taken_for_it(nursery, name, token):
    """Another name or another token: somebody else answers there."""
    url = await joiner(nursery)
    with pytest.raises(DialBackError, match="somebody else"):
        await dial_back(url, name=name, token=token)


async def test_a_member_is_not_taken_for_a_joiner():
    """A running member answers `health` too, but without any token."""
    async with loopback_cluster("a") as cluster:
        with pytest.raises(DialBackError, match="somebody else"):
            await dial_back(cluster.url("a"), name="a", token="ab")


async def test_an_address_where_nobody_answers(nursery):
    """Refused or silent: the error names the joiner and the address, within the time given."""
    listener = await open_listener("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    with trio.fail_after(10), pytest.raises(DialBackError, match=r"n4 cannot.*no answer within"):
        await dial_back(url, name="n4", token="ab", timeout_seconds=0.2)
    await listener.aclose()
    with pytest.raises(DialBackError, match=r"n4 cannot.*127\.0\.0\.1"):
        await dial_back(url, name="n4", token="ab")


async def test_a_joiner_tells_nothing_else(nursery):
    """It belongs to no cluster yet: every other question is unknown to it."""
    url = await joiner(nursery)
    assert (await call_url(url, "cluster", timeout_seconds=5)).status == 404
    assert (await call_url(url, "cluster-key", timeout_seconds=5)).status == 404
