"""The HTTP interface: pinned shapes, statuses, and that a follower answers as the leader does."""

import concurrent.futures
import functools
import json
from typing import Any

import httpx
import pytest
import trio

from kingbus.admin.access import BODY_BYTES_MAX, Access, Guard
from kingbus.admin.app import create_app
from kingbus.admin.errors import UnavailableError
from kingbus.admin.schema import AddMember
from kingbus.binlog.command import encode
from kingbus.node.errors import NotLeaderError
from kingbus.node.status import CatchUp
from kingbus.pb.command_pb2 import (
    Command,
    MemberAttributes,
    ReceiverSession,
    User,
    UserChanges,
)
from kingbus.secrets import SOURCE_PASSWORD, ClusterSecret, Secret
from kingbus.storage.at_rest import AtRestStatus
from kingbus.transport.errors import PeerUnreachableError
from tests.unit.admin.fakes import ELECTION_SECONDS, FAKE_CONTENT, Member1, Pair

SOURCE = {
    "mysql_addr": "10.0.0.9:3306",
    "mysql_user": "repl",
    "mysql_password": "hunter2",
    "semi_sync": False,
    "syncer_id": 1001,
}


N3 = {"name": "n3", "peer_url": "http://127.0.0.1:5003"}


@functools.cache
def _described() -> dict[str, Any]:
    """What the API says of itself."""

    async def ask() -> Any:
        app = create_app(Pair().n1.operations, version="1.2.3")
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.get("/openapi.json")).json()

    with concurrent.futures.ThreadPoolExecutor() as threads:  # this one has a loop already
        found: dict[str, Any] = threads.submit(trio.run, ask).result()
    return found


class Browser:
    """Calls one member's app in this process."""

    def __init__(self, member: Member1, access: Access | None = None) -> None:
        self._app = create_app(member.operations, version="1.2.3", access=access)

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The reply, whose status must be one that the API promises for its route."""
        transport = httpx.ASGITransport(app=self._app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            reply = await client.request(method, path, **options)
        operation = _described()["paths"].get(path.partition("?")[0], {}).get(method.lower())
        if operation is not None and reply.status_code != 500:
            assert str(reply.status_code) in operation["responses"], (method, path, reply.text)
        return reply

    async def data(self, method: str, path: str, body: object = None) -> Any:
        reply = await self.ask(method, path, json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["message"] == "success"
        return reply.json()["data"]

    async def raw(self, path: str) -> tuple[bytes, httpx.Headers]:
        reply = await self.ask("GET", path)
        assert reply.status_code == 200, reply.text
        return reply.content, reply.headers

    async def refused(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        reply = await self.ask(method, path, json=body)
        assert isinstance(reply.json()["message"], str)
        assert "data" not in reply.json()
        return reply.status_code, reply.json()["message"]


@pytest.fixture
def pair() -> Pair:
    return Pair()


async def test_cluster_has_the_pinned_fields(pair: Pair) -> None:
    """Ids are lower-case hexadecimal text, lists are lists, and one member leads."""
    members = await Browser(pair.n2).data("GET", "/cluster")

    assert [member["name"] for member in members] == ["n1", "n2"]
    assert set(members[0]) == {
        "Id",
        "name",
        "peerURLs",
        "adminURLs",
        "isLeader",
        "isLearner",
        "version",
    }
    assert members[0]["Id"] == f"{pair.n1.node.id:x}"
    assert members[0]["peerURLs"] == ["http://127.0.0.1:5001"]
    assert members[0]["adminURLs"] == []
    assert [member["isLeader"] for member in members] == [True, False]
    assert "isLeader" not in (await Browser(pair.n2).data("GET", "/members"))[0]


@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_members_are_changed_through_any_node(pair: Pair, asked: str) -> None:
    """Add, conflict, move, promote and remove give the members after, wherever they are asked."""
    browser = Browser(getattr(pair, asked))
    new = {"name": "n3", "peer_url": "http://127.0.0.1:5003", "learner": True}

    after = await browser.data("POST", "/members", new)
    assert [(m["name"], m["isLearner"]) for m in after][-1] == ("n3", True)
    assert (await browser.refused("POST", "/members", new))[0] == 409
    same_url = {"name": "n4", "peer_url": "http://127.0.0.1:5001"}
    assert (await browser.refused("POST", "/members", same_url))[0] == 409

    moved = {"name": "n3", "new_peer_url": "http://127.0.0.1:6003"}
    after = await browser.data("PUT", "/members", moved)
    assert after[-1]["peerURLs"] == ["http://127.0.0.1:6003"]

    after = await browser.data("POST", "/members/promote", {"name": "n3"})
    assert after[-1]["isLearner"] is False

    id_of_n3 = after[-1]["Id"]
    after = await browser.data("DELETE", "/members", {"name": "n3"})
    assert [m["name"] for m in after] == ["n1", "n2"]
    assert (await browser.refused("DELETE", "/members", {"name": "n3"}))[0] == 410
    assert (await browser.refused("DELETE", "/members", {"name": id_of_n3}))[0] == 410
    assert (await browser.refused("DELETE", "/members", {"name": "n9"}))[0] == 404


@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_a_voter_is_replaced_through_any_node(pair: Pair, asked: str) -> None:
    """By a new member or a learner, in one request; the statuses are those of the single steps."""
    browser = Browser(getattr(pair, asked))
    new = {"name": "n3", "peer_url": "http://127.0.0.1:5003", "learner": True}
    await browser.data("POST", "/members", new)
    path = "/members/replace"
    for body, status in (
        ({"name": "n3", "new_name": "n4", "peer_url": "http://127.0.0.1:5004"}, 409),
        ({"name": "n2", "new_name": "n1"}, 409),
        ({"name": "n2", "new_name": "n4", "peer_url": "http://127.0.0.1:5001"}, 409),
        ({"name": "n2", "new_name": "n4"}, 404),
        ({"name": "n9", "new_name": "n3"}, 404),
        ({"name": "n2", "new_name": "n4", "admin_url": "http://127.0.0.1:1"}, 400),
        ({"name": "n2"}, 400),
    ):
        assert (await browser.refused("POST", path, body))[0] == status, body

    after = await browser.data("POST", path, {"name": "n2", "new_name": "n3"})
    assert [(m["name"], m["isLearner"]) for m in after] == [("n1", False), ("n3", False)]
    again = {"name": "n2", "new_name": "n4", "peer_url": "http://127.0.0.1:5004"}
    assert (await browser.refused("POST", path, again))[0] == 410
    after = await browser.data("POST", path, again | {"name": "n3"})
    assert {m["name"] for m in after} == {"n1", "n4"}


@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_who_asks_to_join_is_dialled_back(pair: Pair, asked: str) -> None:
    """Added only when it answers; a wildcard becomes where the request came from; again: 200."""
    browser = Browser(getattr(pair, asked))
    body = {"name": "n3", "peer_url": "http://0.0.0.0:5003", "promote": True, "dial_back": "ab"}

    status, message = await browser.refused("POST", "/members", body)
    assert (status, "http://127.0.0.1:5003" in message) == (409, True)
    assert len(pair.shared.cluster) == 2

    pair.joiners.add(("http://127.0.0.1:5003", "n3", "ab"))
    for _ in range(2):
        after = await browser.data("POST", "/members", body)
        assert [(m["name"], m["peerURLs"], m["isLearner"]) for m in after] == [
            ("n1", ["http://127.0.0.1:5001"], False),
            ("n2", ["http://127.0.0.1:5002"], False),
            ("n3", ["http://127.0.0.1:5003"], True),
        ]
    other = body | {"peer_url": "http://[::]:5004"}
    pair.joiners.add(("http://127.0.0.1:5004", "n3", "ab"))
    assert (await browser.refused("POST", "/members", other))[0] == 409  # the name is n3's


@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_who_joins_with_another_cluster_key_is_not_added(pair: Pair, asked: str) -> None:
    """Compared with what the log announces, or else with what the leader is to announce."""
    browser = Browser(getattr(pair, asked))
    assert pair.secret is not None
    new = {"name": "n3", "peer_url": "http://127.0.0.1:5003", "promote": True, "dial_back": "ab"}
    pair.joiners.add(("http://127.0.0.1:5003", "n3", "ab"))
    other = ClusterSecret.generate()
    for _ in range(2):
        refused = await browser.refused("POST", "/members", new | {"key_id": other.key_id})
        assert refused == (
            409,
            f"n3 has cluster key {other.key_id}, the cluster has {pair.secret.key_id}",
        )
        assert len(pair.shared.cluster) == 2
        await pair.n1.operations._leader.announce_key(pair.secret)
    for key_id in ("", pair.secret.key_id):
        assert len(await browser.data("POST", "/members", new | {"key_id": key_id})) == 3


async def test_who_joins_again_is_told_what_it_is(pair: Pair) -> None:
    """Only what it asks for is confirmed: a voter, a learner, or a learner that becomes a voter."""
    browser = Browser(pair.n2)
    learner, voter = {"learner": True}, {"promote": True}
    for name, port, first, again in (
        ("l1", 5004, learner, voter),
        ("l2", 5005, voter, learner),
    ):
        url = f"http://127.0.0.1:{port}"
        pair.joiners.add((url, name, "ab"))
        body = {"name": name, "peer_url": url, "dial_back": "ab"}
        after = await browser.data("POST", "/members", body | first)
        assert (await browser.refused("POST", "/members", body | again))[0] == 409
        assert await browser.data("POST", "/members", body | first) == after
    await browser.data("POST", "/members/promote", {"name": "l2"})
    assert (await browser.refused("POST", "/members", body | learner))[0] == 409
    await browser.data("POST", "/members", body | voter)


@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_an_id_removes_that_member_only(pair: Pair, asked: str) -> None:
    """Not the one that has its name by now."""
    browser = Browser(getattr(pair, asked))
    body = {"name": "n3", "peer_url": "http://127.0.0.1:5003", "learner": True}
    old = (await browser.data("POST", "/members", body))[-1]["Id"]
    await browser.data("DELETE", "/members", {"name": "n3", "id": old})
    new = (await browser.data("POST", "/members", body))[-1]["Id"]
    status, message = await browser.refused("DELETE", "/members", {"name": "n3", "id": old})
    assert (status, f"'n3' with id {old} was removed" in message) == (410, True)
    assert (await browser.refused("DELETE", "/members", {"name": "n3", "id": "77"}))[0] == 404
    assert (await browser.refused("DELETE", "/members", {"name": "n3", "id": "x"}))[0] == 400
    assert len(pair.shared.cluster) == 3
    assert len(await browser.data("DELETE", "/members", {"name": "n3", "id": new})) == 2


async def test_a_wildcard_needs_a_dial_back(pair: Pair) -> None:
    """Without one nobody would find out that the address is wrong: 400; never as admin URL."""
    browser = Browser(pair.n1)
    wildcard = {"name": "n3", "peer_url": "http://0.0.0.0:5003"}

    status, message = await browser.refused("POST", "/members", wildcard)
    assert (status, "wildcard" in message) == (400, True)
    admin = {"peer_url": "http://127.0.0.1:5003", "admin_url": "http://0.0.0.0:1", "dial_back": "a"}
    assert (await browser.refused("POST", "/members", wildcard | admin))[0] == 400
    assert len(pair.shared.cluster) == 2


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.1.2.3", "http://10.1.2.3:5003"),
        ("fe80::1%eth0", "http://[fe80::1]:5003"),
        ("::ffff:10.1.2.3", "http://10.1.2.3:5003"),
    ],
)
def test_the_address_of_a_connection(host: str, expected: str) -> None:
    """Of either family, as a URL; an address that is no wildcard stays."""
    body = AddMember(name="n3", peer_url="http://0.0.0.0:5003", dial_back="ab")
    assert body.seen_from(host).peer_url == expected
    assert body.seen_from(host).seen_from("10.9.9.9").peer_url == expected
    with pytest.raises(ValueError, match="no address"):
        body.seen_from(None)


async def test_leadership_is_transferred(pair: Pair) -> None:
    """The answer is the new leader; a learner or a stranger is refused."""
    browser = Browser(pair.n2)

    data = await browser.data("POST", "/leader/transfer", {"name": "n2"})
    assert data == {"Id": f"{pair.n2.node.id:x}", "name": "n2"}
    assert pair.shared.leader_id == pair.n2.node.id
    assert (await browser.refused("POST", "/leader/transfer", {"name": "x"}))[0] == 404
    assert (await browser.data("POST", "/leader/transfer"))["name"] == "n1"


@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_a_source_is_checked_sealed_and_replicated(pair: Pair, asked: str) -> None:
    """Start checks on the leader; the log holds the password sealed, status none at all."""
    browser = Browser(getattr(pair, asked))

    assert await browser.data("PUT", "/binlog/syncer/start", SOURCE) == ""
    assert pair.n1.receiver.checked == [("10.0.0.9:3306", "hunter2")]
    config = pair.shared.state.source_config
    assert config is not None
    assert config.started
    assert not config.semi_sync
    assert config.server_id == 1001
    assert config.start_from == "earliest"
    assert b"hunter2" not in config.SerializeToString()
    assert pair.secret is not None
    assert pair.secret.open(config.password, SOURCE_PASSWORD) == "hunter2"

    assert (await browser.data("GET", "/binlog/syncer/status"))["current_addr"] is None
    pair.n1.receiver.now.address = "10.0.0.10:3306"
    status = await browser.data("GET", "/binlog/syncer/status")
    assert status["mysql_addr"] == "10.0.0.9:3306"
    assert status["current_addr"] == "10.0.0.10:3306"
    assert status["mysql_user"] == "repl"
    assert status["seconds_behind_source"] is None
    assert "hunter2" not in json.dumps(status)


async def test_a_source_without_gtids_and_over_a_compressed_connection(pair: Pair) -> None:
    """Mode and compression are stored; the mode is kept when it is not said again, and cannot be
    changed once there is a file."""
    browser = Browser(pair.n1)
    wanted = {**SOURCE, "mode": "position", "start_from": "bin.000004", "compression": "zstd"}
    await browser.data("PUT", "/binlog/syncer/start", wanted)
    config = pair.shared.state.source_config
    assert config is not None
    assert (config.mode, config.start_from, config.compression) == (
        "position",
        "bin.000004",
        "zstd",
    )
    await browser.data("PUT", "/binlog/syncer/start", {**SOURCE, "compression": "none"})
    config = pair.shared.state.source_config
    assert config is not None
    assert (config.mode, config.compression) == ("position", "")
    pair.shared.state._names_used["bin.000004"] = 1
    pair.shared.state.source = ReceiverSession(mode="position")
    found = await browser.refused("PUT", "/binlog/syncer/start", {**SOURCE, "mode": "gtid"})
    assert found == (
        409,
        "the relay was begun in mode position and cannot go on in mode gtid",
    )


async def test_a_refusing_source_changes_nothing(pair: Pair) -> None:
    """502 with the source's own text, also through a follower; nothing is stored."""
    pair.n1.receiver.refusal = "Access denied for user 'repl'@'relay' (using password: YES)"
    for member in (pair.n1, pair.n2):
        found = await Browser(member).refused("PUT", "/binlog/syncer/start", SOURCE)
        assert found == (502, pair.n1.receiver.refusal)
    assert pair.shared.state.source_config is None


async def test_starting_again_with_equal_arguments_disturbs_nothing(pair: Pair) -> None:
    """Equal arguments (the password left out or given) propose nothing while it runs."""
    browser = Browser(pair.n1)
    await browser.data("PUT", "/binlog/syncer/start", SOURCE)
    pair.n1.receiver.now.status = "running"
    index = pair.shared.index

    await browser.data("PUT", "/binlog/syncer/start", SOURCE)
    without = {key: value for key, value in SOURCE.items() if key != "mysql_password"}
    await browser.data("PUT", "/binlog/syncer/start", without)
    await browser.data("PUT", "/binlog/syncer/start", {})
    assert pair.shared.index == index

    await browser.data("PUT", "/binlog/syncer/start", without | {"syncer_id": 1002})
    assert pair.shared.index == index + 1
    assert pair.n1.receiver.checked[-1] == ("10.0.0.9:3306", "hunter2")


async def test_stop_keeps_the_source_and_an_empty_start_resumes_it(pair: Pair) -> None:
    """Stopped stays stored; starting without a body uses it, and 400 when there is none."""
    browser = Browser(pair.n2)
    assert (await browser.refused("PUT", "/binlog/syncer/start", {}))[0] == 400
    assert await browser.data("PUT", "/binlog/syncer/stop") == ""
    await browser.data("PUT", "/binlog/syncer/start", SOURCE)
    await browser.data("PUT", "/binlog/syncer/stop")
    config = pair.shared.state.source_config
    assert config is not None
    assert not config.started

    await browser.data("PUT", "/binlog/syncer/start")
    config = pair.shared.state.source_config
    assert config is not None
    assert config.started
    assert config.user == "repl"


async def test_nothing_stored_is_not_started(pair: Pair) -> None:
    """An empty start then says what to do first, not which field is missing; a user is needed."""
    reply = await Browser(pair.n2).ask("PUT", "/binlog/syncer/start", json={})
    assert reply.status_code == 400
    assert "no source is stored" in reply.json()["message"]
    assert "source set" in reply.json()["hint"]
    for path in ("/binlog/syncer/start", "/binlog/syncer/config"):
        body = SOURCE | {"mysql_user": ""}
        assert await Browser(pair.n2).refused("PUT", path, body) == (400, "mysql_user is required")


async def test_a_source_is_stored_without_starting(pair: Pair) -> None:
    """`config` neither checks nor starts, and is refused while the receiver is started."""
    browser = Browser(pair.n1)
    await browser.data("PUT", "/binlog/syncer/config", SOURCE)
    assert pair.shared.state.source_config is not None
    assert not pair.shared.state.source_config.started
    assert pair.n1.receiver.checked == []

    await browser.data("PUT", "/binlog/syncer/start", {})
    assert (await browser.refused("PUT", "/binlog/syncer/config", SOURCE))[0] == 409


@pytest.mark.parametrize(
    ("method", "path", "body", "part"),
    [
        ("PUT", "/binlog/syncer/start", {"mysql_addr": "nowhere"}, "host:port"),
        ("PUT", "/binlog/syncer/start", {"mysql_user": "u"}, "mysql_addr is required"),
        ("PUT", "/binlog/syncer/start", {**SOURCE, "syncer_uuid": "x"}, "syncer_uuid"),
        ("PUT", "/binlog/syncer/start", {**SOURCE, "syncer_id": -1}, "syncer_id"),
        ("PUT", "/binlog/syncer/start", {**SOURCE, "start_from": "yesterday"}, "GTID set"),
        ("PUT", "/binlog/syncer/start", {**SOURCE, "flavor": "oracle"}, "mysql or mariadb"),
        ("PUT", "/binlog/syncer/start", {**SOURCE, "tls": {"mode": "maybe"}}, "tls.mode"),
        ("PUT", "/binlog/syncer/start", {**SOURCE, "mode": "file"}, "mode"),
        ("PUT", "/binlog/syncer/start", {**SOURCE, "compression": "lz4"}, "compression"),
        (
            "PUT",
            "/binlog/syncer/start",
            {**SOURCE, "mode": "position", "start_from": "yesterday"},
            "not the name of a binary log file",
        ),
        ("PUT", "/binlog/syncer/start", {**SOURCE, "colour": 1}, "colour is not known"),
        ("PUT", "/binlog/server/start", {"addr": "x", "user": "u", "password": ""}, "host:port"),
        ("PUT", "/binlog/server/start", {"addr": "h:1", "user": "u"}, "password is required"),
        ("POST", "/members", {"name": "n3"}, "peer_url is required"),
        ("POST", "/members", {"name": "n3", "peer_url": "http://0.0.0.0:1"}, "wildcard"),
        ("POST", "/members", {"name": "a b", "peer_url": "http://h:1"}, "cannot name"),
        *(
            ("POST", "/members", N3 | {"learner": value}, "learner must be true or false")
            for value in ("yes", "true", "false", 1, 0, None, [])
        ),
        ("POST", "/members", N3 | {"promote": "true"}, "promote must be true or false"),
        ("PUT", "/binlog/syncer/config", SOURCE | {"semi_sync": 0}, "semi_sync must be true or"),
        ("PUT", "/binlog/syncer/config", SOURCE | {"syncer_id": True}, "syncer_id must be a num"),
        ("PUT", "/binlog/syncer/config", SOURCE | {"syncer_id": "7"}, "syncer_id must be a num"),
        ("PUT", "/members", {"name": "n1"}, "new_peer_url is required"),
        ("POST", "/members", [1], "JSON object"),
        ("GET", "/ready?lag_seconds=x", None, "lag_seconds"),
    ],
)
@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_malformed_requests(
    pair: Pair, asked: str, method: str, path: str, body: object, part: str
) -> None:
    """400 with one sentence that names the field, never 422, and never the password."""
    status, message = await Browser(getattr(pair, asked)).refused(method, path, body)

    assert status == 400
    assert part in message
    assert "hunter2" not in message


async def test_what_the_framework_refuses_has_the_same_shape(pair: Pair) -> None:
    """404, 405, broken JSON and too large a body all answer `{"message": ...}`."""
    browser = Browser(pair.n1)

    assert (await browser.refused("GET", "/nowhere"))[0] == 404
    assert (await browser.refused("GET", "/members/"))[0] == 404
    assert (await browser.refused("PATCH", "/members"))[0] == 405
    assert (await browser.refused("GET", "/internal/server"))[0] == 404
    broken = await browser.ask("POST", "/members", content=b"{nope")
    assert broken.status_code == 400
    assert "valid JSON" in broken.json()["message"]
    large = await browser.ask("POST", "/members", content=b"x" * (BODY_BYTES_MAX + 1))
    assert large.status_code == 413
    assert "message" in large.json()


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "application/xml", "nonsense", ""]
)
async def test_the_content_type_does_not_matter(pair: Pair, kind: str) -> None:
    """A body is JSON, whatever a client that cannot be told calls it, or if it says nothing."""
    headers = {"content-type": kind} if kind else {}
    reply = await Browser(pair.n2).ask(
        "POST", "/leader/transfer", content=b'{"name": "n2"}', headers=headers
    )
    assert (reply.status_code, reply.json()["data"]["name"]) == (200, "n2")


async def test_a_body_without_a_length_is_cut_at_the_limit() -> None:
    """A client that streams is refused once it passes the limit; the app never runs."""
    sent: list[Any] = []
    received = 0

    async def app(*_: object) -> None:
        raise AssertionError("the app ran")

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b"x" * (BODY_BYTES_MAX // 4), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/members", "headers": []}
    await Guard(app, Access())(scope, receive, send)

    assert sent[0]["status"] == 413
    assert received == 5


async def test_an_unexpected_error_is_a_500_of_the_same_shape(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw ends that request only, with a message that shows nothing."""
    pair.shared.state = None  # type: ignore[assignment]

    status, message = await Browser(pair.n1).refused("GET", "/status")
    assert status == 500
    assert "internal error" in message
    assert "NoneType" not in message


async def test_without_a_leader_changes_wait_and_then_refuse(pair: Pair) -> None:
    """503 `no leader`; local facts are answered all the same, and readiness says why not."""
    pair.shared.leader_id = 0
    browser = Browser(pair.n2)

    found = await browser.refused("PUT", "/binlog/syncer/stop")
    assert found == (503, "no leader")
    assert (await browser.refused("GET", "/binlog/syncer/status")) == (503, "no leader")
    assert (await browser.data("GET", "/status"))["leader"] == ""
    for path in ("/cluster", "/members", "/binlog/files", "/binlog/server/status", "/health"):
        await browser.data("GET", path)
    assert (await browser.refused("GET", "/ready")) == (503, "no leader")


async def test_a_leader_that_hands_over_late_is_no_missing_leader(
    pair: Pair, autojump_clock: object
) -> None:
    """What waited at one leader for longer than a leader is waited for goes on at the next."""

    async def hand_over(_member_id: int) -> None:
        await trio.sleep(10 * ELECTION_SECONDS)
        pair.shared.leader_id = pair.n2.node.id
        raise NotLeaderError(pair.n2.node.id)

    pair.n1.node.membership.remove = hand_over  # type: ignore[method-assign]
    after = await pair.n2.operations.forward("DELETE", "/members", {"name": "n1"})
    assert [member["name"] for member in after] == ["n2"]


async def test_leaders_that_come_and_go_are_not_asked_for_ever(
    pair: Pair, autojump_clock: object
) -> None:
    """Each names the other: 503 in the end."""

    async def point(_member_id: int) -> None:
        await trio.sleep(1)
        other = pair.n2 if pair.shared.leader_id == pair.n1.node.id else pair.n1
        pair.shared.leader_id = other.node.id
        raise NotLeaderError(other.node.id)

    for member in (pair.n1, pair.n2):
        member.node.membership.remove = point  # type: ignore[method-assign]
    with trio.fail_after(60), pytest.raises(UnavailableError, match="no leader"):
        await pair.n2.operations.forward("DELETE", "/members", {"name": "n1"})


@pytest.mark.parametrize("repeated_at", ["the next leader", "this node"])
@pytest.mark.parametrize("arrived", [True, False])
@pytest.mark.parametrize(
    ("method", "path", "body", "after"),
    [
        ("DELETE", "/members", {"name": "n3"}, "n1 n2"),
        ("POST", "/members", {"name": "n4", "peer_url": "http://127.0.0.1:5004/"}, "n1 n2 n3 n4"),
        ("POST", "/members/promote", {"name": "n3"}, "n1 n2 n3"),
        ("PUT", "/members", {"name": "n3", "new_peer_url": "http://h:9"}, "n1 n2 n3"),
        ("POST", "/members/replace", {"name": "n2", "new_name": "n3"}, "n1 n3"),
        (
            "POST",
            "/members/replace",
            {"name": "n2", "new_name": "n4", "peer_url": "http://127.0.0.1:5004"},
            "n1 n3 n4",
        ),
    ],
)
async def test_a_change_whose_answer_was_lost_is_made_once(
    pair: Pair, method: str, path: str, body: object, after: str, arrived: bool, repeated_at: str
) -> None:
    """The leader dies under a forwarded change, before or after it did it: 200 from the next."""
    n3 = {"name": "n3", "peer_url": "http://127.0.0.1:5003", "learner": True}
    await Browser(pair.n1).data("POST", "/members", n3)

    def dies(_target: int) -> None:
        pair.transport.before = pair.transport.after = lambda _target: None
        if repeated_at == "this node":
            pair.shared.leader_id = pair.n2.node.id
        raise PeerUnreachableError("the connection was closed", was_sent=True)

    if arrived:
        pair.transport.after = dies
    else:
        pair.transport.before = dies
    members = await Browser(pair.n2).data(method, path, body)
    assert [member["name"] for member in members] == after.split()


async def test_a_refusal_of_a_repeat_is_told(pair: Pair) -> None:
    """A repeat is a success only where the members are as the request wants them."""

    def dies(_target: int) -> None:
        pair.transport.before = lambda _target: None
        raise PeerUnreachableError("the connection was closed", was_sent=True)

    for method, path, body, status in (
        ("POST", "/members", {"name": "n2", "peer_url": "http://h:9"}, 409),
        ("POST", "/members", {"name": "n9", "peer_url": "http://127.0.0.1:5002"}, 409),
        ("DELETE", "/members", {"name": "n9"}, 404),
        ("POST", "/members/replace", {"name": "n2", "new_name": "n1"}, 409),
    ):
        pair.transport.before = dies
        assert (await Browser(pair.n2).refused(method, path, body))[0] == status, body


async def test_a_leader_that_hangs_is_not_the_last_word(pair: Pair, autojump_clock: object) -> None:
    """Who does not even greet has done nothing: whoever leads next is asked, however long that
    took; and when nobody does, the reply says what is wrong with the leader."""

    async def hangs(*_: object, **__: object) -> None:
        await trio.sleep(40 * ELECTION_SECONDS)
        if pair.shared.cluster.named("n3") is None and new_leader:
            pair.shared.leader_id = pair.n2.node.id
        raise PeerUnreachableError("nobody speaks there within 2 s")

    pair.transport.call = hangs  # type: ignore[method-assign,assignment]
    new = {"name": "n3", "peer_url": "http://127.0.0.1:5003"}
    new_leader = False
    status, message = await Browser(pair.n2).refused("POST", "/members", new)
    assert (status, "nobody speaks there" in message) == (503, True)
    new_leader = True
    assert len(await Browser(pair.n2).data("POST", "/members", new)) == 3


async def test_an_outcome_that_stays_unknown_is_told(pair: Pair) -> None:
    """503 that says so, not that there is no leader."""

    def dies(_target: int) -> None:
        pair.shared.leader_id = 0
        raise PeerUnreachableError("the connection was closed", was_sent=True)

    pair.transport.after = dies
    status, message = await Browser(pair.n2).refused("DELETE", "/members", {"name": "n1"})
    assert status == 503
    assert "answer is missing: the connection was closed" in message


async def test_ready_judges_the_lag(pair: Pair) -> None:
    """Within the allowed lag 200, beyond it or unknown 503."""
    browser = Browser(pair.n2)
    assert (await browser.refused("GET", "/ready?lag_seconds=5"))[0] == 503
    pair.n1.receiver.now.seconds_behind_source = 3
    assert (await browser.data("GET", "/ready?lag_seconds=5"))["lag_seconds"] == 3.0
    pair.n1.receiver.now.seconds_behind_source = 9
    assert (await browser.refused("GET", "/ready?lag_seconds=5"))[0] == 503
    await browser.data("GET", "/ready")


async def test_a_node_that_began_from_a_snapshot_says_how_far_it_is(pair: Pair) -> None:
    """Not ready while it installs, and the share of what is retained until it has all of it."""
    browser = Browser(pair.n2)
    assert (await browser.data("GET", "/status"))["catch_up"] is None
    pair.n2.node.catch_up = CatchUp(installing=True, begin=100, applied=3, end=0)
    found = await browser.refused("GET", "/ready")
    assert found == (503, "this node is installing a snapshot")
    await browser.data("GET", "/health")
    pair.n2.node.catch_up = CatchUp(installing=False, begin=100, applied=150, end=300)
    assert (await browser.data("GET", "/status"))["catch_up"] == {
        "installing": False,
        "from_index": 100,
        "to_index": 300,
        "share": 0.25,
    }
    await browser.data("GET", "/ready")


async def test_the_form_at_rest_is_told(pair: Pair) -> None:
    """What is set, what it saved, and how many segments have it; unknown is null."""
    browser = Browser(pair.n1)
    pair.at_rest = AtRestStatus(level=0, key_id="", segments=3, transformed_segments=1)
    assert (await browser.data("GET", "/status"))["at_rest"] == {
        "compress": "none",
        "level": None,
        "encrypt": "none",
        "key_id": None,
        "data_bytes": None,
        "stored_bytes": None,
        "ratio": None,
        "seconds": None,
        "segments": 3,
        "transformed_segments": 1,
        "sealed_segments": 0,
    }
    pair.at_rest = AtRestStatus(
        level=3,
        key_id="5eed",
        data_bytes=400,
        stored_bytes=100,
        seconds=0.25,
        segments=3,
        transformed_segments=2,
        sealed_segments=1,
    )
    assert (await browser.data("GET", "/status"))["at_rest"] == {
        "compress": "zstd",
        "level": 3,
        "encrypt": "cluster-key",
        "key_id": "5eed",
        "data_bytes": 400,
        "stored_bytes": 100,
        "ratio": 0.25,
        "seconds": 0.25,
        "segments": 3,
        "transformed_segments": 2,
        "sealed_segments": 1,
    }


async def test_the_listener_of_the_node_asked(pair: Pair) -> None:
    """A follower binds its own listener and the leader stores it; a taken port is a conflict."""
    browser = Browser(pair.n2)
    body = {"addr": "127.0.0.1:3390", "user": "relay", "password": "hunter2"}

    assert await browser.data("PUT", "/binlog/server/start", body) == ""
    assert pair.n2.listener.is_running
    assert not pair.n1.listener.is_running
    assert pair.shared.state.servers[pair.n2.node.id].address == "127.0.0.1:3390"
    status = await browser.data("GET", "/binlog/server/status")
    assert (status["status"], status["addr"], status["user"]) == (
        "running",
        "127.0.0.1:3390",
        "relay",
    )
    assert status["slaves"] == []

    pair.n2.listener.taken.add("127.0.0.1:3391")
    found = await browser.refused("PUT", "/binlog/server/start", body | {"addr": "127.0.0.1:3391"})
    assert found == (409, "listen on 127.0.0.1:3391: address already in use")


async def test_purging_is_the_leaders(pair: Pair) -> None:
    """Asked anywhere; to a file or before a time, UTC where no zone is given."""
    browser = Browser(pair.n2)
    pair.n1.purger.held = {"binlog.000002"}
    assert await browser.data("POST", "/binlog/purge", {"to": "binlog.000002"}) == []
    for time in ("2026-11-21 16:00:00", "2026-11-21T16:00:00Z", "2026-11-21T18:00:00+02:00"):
        await browser.data("POST", "/binlog/purge", {"before": time})

    assert pair.n1.purger.asked == ["binlog.000002", *[1795276800.0] * 3]
    assert pair.n2.purger.asked == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"to": "binlog.000009"}, 404, "no such file: binlog.000009"),
        ({}, 400, "give either to or before"),
        ({"to": "a", "before": "2026-11-21"}, 400, "give either to or before"),
        ({"to": ""}, 400, "to "),
        ({"before": "yesterday"}, 400, "before is not a time"),
    ],
)
async def test_a_purge_that_cannot_be_meant(
    pair: Pair, body: dict[str, str], status: int, words: str
) -> None:
    """Refused with one sentence, and nothing is purged."""
    found, message = await Browser(pair.n2).refused("POST", "/binlog/purge", body)

    assert (found, words in message) == (status, True), message
    assert pair.n1.purger.asked == []


async def test_a_small_reserve_is_told_of_when_a_source_is_stored(pair: Pair) -> None:
    """Against the smallest reserve of the members; a source that does not answer is not judged."""
    browser = Browser(pair.n2)
    source = {"mysql_addr": "127.0.0.1:3306", "mysql_user": "repl"}
    for member, reserve in ((pair.n1, 8 << 30), (pair.n2, 2 << 30)):
        attributes = MemberAttributes(member_id=member.node.id, reserve_bytes=reserve)
        await member.operations.store_attributes(attributes)
    assert await browser.data("PUT", "/binlog/syncer/config", source) == ""
    pair.n1.receiver.binlog_size = 1 << 30
    found = await browser.data("PUT", "/binlog/syncer/config", source)
    assert "less than 3 x the source's max_binlog_size" in found
    pair.n1.receiver.binlog_size = 512 << 20
    assert await browser.data("PUT", "/binlog/syncer/config", source) == ""


async def test_a_user_of_the_listener_may_be_an_administrator(pair: Pair) -> None:
    """Only where that is asked for."""
    browser = Browser(pair.n2)
    body = {"addr": "127.0.0.1:3390", "user": "relay", "password": "hunter2"}
    for more, rights in (({}, ["replication"]), ({"admin": True}, ["replication", "admin"])):
        await browser.data("PUT", "/binlog/server/start", body | more)
        stored = pair.shared.state.servers[pair.n2.node.id].users[0]
        assert list(stored.rights) == rights


async def test_events_of_a_file(pair: Pair) -> None:
    """From a position on and limited; an unknown file is 404, a position inside an event 400."""
    browser = Browser(pair.n2)

    data = await browser.data("GET", "/binlog/events?file=binlog.000001&from=14&limit=1")
    assert data == [
        {
            "file": "binlog.000001",
            "position": 14,
            "event_type": "Xid",
            "server_id": 1,
            "end_position": 24,
            "info": "COMMIT",
        }
    ]
    assert len(await browser.data("GET", "/binlog/events?file=binlog.000001")) == 2
    assert (await browser.refused("GET", "/binlog/events?file=other"))[0] == 404
    found = await browser.refused("GET", "/binlog/events?file=binlog.000001&from=5")
    assert found == (400, "Wrong offset or I/O error")
    for query in ("", "?file=binlog.000001&limit=0", "?file=binlog.000001&from=x"):
        assert (await browser.refused("GET", f"/binlog/events{query}"))[0] == 400


async def test_without_a_cluster_key_no_password_is_stored() -> None:
    """A node that cannot seal refuses instead of writing the password into the log."""
    pair = Pair(with_key=False)

    status, message = await Browser(pair.n1).refused("PUT", "/binlog/syncer/start", SOURCE)
    assert status == 503
    assert "cluster key" in message
    assert pair.shared.state.source_config is None


async def test_the_api_describes_itself(pair: Pair) -> None:
    """OpenAPI, its page, the page for people and the metrics are served."""
    browser = Browser(pair.n1)
    description = (await browser.ask("GET", "/openapi.json")).json()
    assert "/binlog/syncer/start" in description["paths"]
    assert not any(path.startswith("/internal") for path in description["paths"])
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            promised = set(operation["responses"])
            assert "200" in promised
            assert "403" in promised
            assert "422" not in promised, (method, path)
            assert ("401" in promised) == (path not in {"/health", "/ready"})
            assert {"400", "413"} <= promised or "requestBody" not in operation
            for status in promised - {"200"}:
                content = operation["responses"][status]["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Failure"}
    assert "Failure" in description["components"]["schemas"]
    assert "HTTPValidationError" not in json.dumps(description)
    for path in ("/docs", "/"):
        page = await browser.ask("GET", path)
        assert page.status_code == 200
        assert "text/html" in page.headers["content-type"]
    assert "kingbus_raft_term" in (await browser.ask("GET", "/metrics")).text


async def test_tokens(pair: Pair) -> None:
    """With a token every route but the probes needs it; the read token reads only."""
    access = Access(token=Secret("admin-token"), read_token=Secret("read-token"))
    browser = Browser(pair.n1, access)

    async def status(method: str, path: str, token: str = "") -> int:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        reply = await browser.ask(method, path, headers=headers)
        assert "message" in reply.json()
        return reply.status_code

    assert await status("GET", "/status") == 401
    assert await status("GET", "/status", "wrong") == 401
    assert await status("GET", "/nowhere") == 401
    assert await status("GET", "/status", "admin-token") == 200
    assert await status("GET", "/status", "read-token") == 200
    assert await status("PUT", "/binlog/syncer/stop", "read-token") == 403
    assert await status("PUT", "/binlog/syncer/stop", "admin-token") == 200
    assert await status("GET", "/health") == 200


async def test_pages_of_other_origins_are_refused(pair: Pair) -> None:
    """A browser on another page, or a name re-pointed to this address, cannot use the API."""
    browser = Browser(pair.n1, Access(hosts=frozenset({"localhost"})))

    evil = await browser.ask("POST", "/leader/transfer", headers={"origin": "http://evil.example"})
    assert evil.status_code == 403
    rebound = await browser.ask("GET", "/status", headers={"host": "evil.example:9595"})
    assert rebound.status_code == 403
    for host in ("localhost:9595", "127.0.0.1:9595", "[::1]:9595"):
        assert (await browser.ask("GET", "/status", headers={"host": host})).status_code == 200


async def test_bytes_of_a_file_come_as_they_are(pair: Pair) -> None:
    """Any range of them, with how many there are; what is not there is refused as elsewhere."""
    browser = Browser(pair.n2)
    body, headers = await browser.raw("/binlog/content?file=binlog.000001&from=3&limit=500")
    assert body == FAKE_CONTENT[3:503]
    assert headers["content-type"] == "application/octet-stream"
    assert headers["kingbus-file-bytes"] == str(len(FAKE_CONTENT))
    assert headers["kingbus-file-closed"] == "true"
    body, _ = await browser.raw(f"/binlog/content?file=binlog.000001&from={len(FAKE_CONTENT)}")
    assert body == b""
    for query, status in (
        ("file=binlog.000009", 404),
        (f"file=binlog.000001&from={len(FAKE_CONTENT) + 1}", 400),
        ("file=binlog.000001&from=-1", 400),
        (f"file=binlog.000001&limit={(4 << 20) + 1}", 400),
        ("from=4", 400),
    ):
        assert (await browser.refused("GET", f"/binlog/content?{query}"))[0] == status, query


async def test_channels_are_added_and_listed(pair: Pair) -> None:
    """By any member, again without harm; a name that cannot be is refused, and removing is not
    there yet."""
    browser = Browser(pair.n2)
    assert [each["name"] for each in await browser.data("GET", "/channels")] == [""]
    for _ in range(2):
        added = await browser.data("POST", "/channels", {"name": "orders"})
        assert [(each["name"], each["number"]) for each in added] == [("", 0), ("orders", 1)]
    for name in ("Orders", "", "a" * 33, "a b"):
        status, message = await browser.refused("POST", "/channels", {"name": name})
        assert (status, "name" in message) == (400, True)
    status, message = await browser.refused("DELETE", "/channels", {"name": "orders"})
    assert (status, "not available yet" in message) == (409, True)


async def test_no_channel_is_added_before_every_member_knows_them(pair: Pair) -> None:
    """The one that does not is named."""
    old = pair.n1.node.cluster.named("n2")
    assert old is not None
    command = Command(member_attributes=MemberAttributes(member_id=old.id, command_version=2))
    await pair.n1.node.propose(encode(command))
    status, message = await Browser(pair.n2).refused("POST", "/channels", {"name": "orders"})
    assert (status, "n2" in message) == (503, True)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/binlog/syncer/start", {"channel": "x"}),
        ("PUT", "/binlog/syncer/config", SOURCE | {"channel": "x"}),
        ("PUT", "/binlog/syncer/stop", {"channel": "x"}),
        ("PUT", "/binlog/syncer/failover", {"channel": "x"}),
        ("PUT", "/binlog/syncer/accept-gap", {"channel": "x", "gtid_set": "a"}),
        ("GET", "/binlog/syncer/status?channel=x", None),
        (
            "PUT",
            "/binlog/server/start",
            {"channel": "x", "addr": "h:1", "user": "u", "password": ""},
        ),
        ("PUT", "/binlog/server/stop", {"channel": "x"}),
        ("GET", "/binlog/server/status?channel=x", None),
        ("GET", "/binlog/files?channel=x", None),
        ("GET", "/binlog/events?channel=x&file=f", None),
        ("GET", "/binlog/content?channel=x&file=f", None),
        ("POST", "/binlog/purge", {"channel": "x", "to": "f"}),
    ],
)
async def test_a_channel_that_is_not_there_is_no_other(
    pair: Pair, method: str, path: str, body: object
) -> None:
    """404, and nothing happens to the default one."""
    before = pair.n1.node.state.digest()
    status, message = await Browser(pair.n2).refused(method, path, body)
    assert (status, message) == (404, "no such channel: x")
    assert pair.n1.node.state.digest() == before


async def test_an_empty_channel_is_the_default_one(pair: Pair) -> None:
    """As if it had not been said."""
    await Browser(pair.n2).data("PUT", "/binlog/syncer/config", SOURCE | {"channel": ""})
    config = pair.n1.node.state.source_config
    assert config is not None
    assert (config.user, config.channel) == ("repl", 0)


async def test_a_user_is_bound_to_a_channel_and_freed(pair: Pair) -> None:
    """Its rights and password stay; who or what is not there is named."""
    browser = Browser(pair.n2)
    user = User(name="u", rights=["replication"], sha2_verifier=b"s")
    await pair.n1.node.propose(encode(Command(user_changes=UserChanges(users=[user]))))
    await browser.data("POST", "/channels", {"name": "orders"})
    for name, number in (("orders", 1), ("orders", 1), ("", 0)):
        await browser.data("PUT", "/channels/users", {"user": "u", "name": name})
        stored = pair.n1.node.state.users["u"]
        assert stored.channel == number
        assert (list(stored.rights), stored.sha2_verifier) == (["replication"], b"s")
    for body, what in (
        ({"user": "v", "name": "orders"}, "no such user: v"),
        ({"user": "u", "name": "x"}, "no such channel: x"),
    ):
        assert await browser.refused("PUT", "/channels/users", body) == (404, what)
