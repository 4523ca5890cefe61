"""Bad input of every kind: one clear error names it, nothing else is harmed, no password shows."""

import json
import os
import socket
import struct
from pathlib import Path

import httpx
import pymysql
import pytest

from tests.support import workload
from tests.support.cluster import (
    LISTENER_PASSWORD,
    LISTENER_USER,
    KingbusCluster,
    KingbusNode,
    run_kingbus,
)
from tests.support.installations import Installation
from tests.support.processes import free_port
from tests.support.raw_reader import RawReader
from tests.support.servers import REPLICATION_PASSWORD, REPLICATION_USER, MySQLServer
from tests.support.waiting import wait_for
from tests.support.world import World

pytestmark = pytest.mark.mysql


def refused(node: KingbusNode, *, status: int = 1) -> str:
    """Start a node that must not come up; the one line that says why."""
    node.launch()
    assert node.wait_end() == status, node.output()
    output = node.output()
    assert "Traceback" not in output
    assert "ready name=" not in output
    return output


def assert_works(cluster: KingbusCluster, source: MySQLServer) -> None:
    """The cluster still relays."""
    workload.small_transactions(source, 3)
    cluster.wait_for_gtids(source.gtid_executed(), source)


def test_source_that_refuses(world: World, modern: Installation) -> None:
    """Wrong password, no server, no GTIDs: 502 with the source's own words, and nothing changes."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    address = f"{source.host}:{source.port}"
    body = {"mysql_addr": address, "mysql_user": REPLICATION_USER, "mysql_password": "wrong-4u"}
    reply = node.request("PUT", "/binlog/syncer/start", body)
    assert reply.status == 502
    assert f"Access denied for user '{REPLICATION_USER}'" in reply.message
    assert "wrong-4u" not in reply.message
    assert node.receiver_status()["status"] == "stopped"

    nobody = f"127.0.0.1:{free_port()}"
    reply = node.request("PUT", "/binlog/syncer/start", {**body, "mysql_addr": nobody})
    assert reply.status == 502
    assert nobody in reply.message
    for wrong in ({}, {"mysql_addr": "nonsense"}, {"mysql_addr": 5}, {**body, "unknown": 1}):
        assert node.request("PUT", "/binlog/syncer/start", wrong).status == 400

    plain = world.server(modern, "plain", server_id=3, gtid=False)
    reply = node.request(
        "PUT",
        "/binlog/syncer/start",
        {
            **body,
            "mysql_addr": f"{plain.host}:{plain.port}",
            "mysql_password": REPLICATION_PASSWORD,
        },
    )
    assert reply.status == 502
    assert "gtid_mode" in reply.message.lower()
    assert node.receiver_status()["status"] == "stopped"

    cluster.start_receiver(source)
    assert_works(cluster, source)
    # With a receiver that runs, a refused change leaves it running as it was.
    assert node.request("PUT", "/binlog/syncer/start", body).status == 502
    assert node.receiver_status()["mysql_addr"] == address
    assert_works(cluster, source)


def test_source_that_has_purged_what_is_missing(world: World, modern: Installation) -> None:
    """A gap is never stepped over: the receiver stops and names what the source lacks."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1)
    cluster.start_receiver(source)
    assert_works(cluster, source)
    cluster.stop()
    workload.small_transactions(source, 5)
    source.execute("FLUSH BINARY LOGS")
    lost = source.gtid_executed()
    workload.small_transactions(source, 5)
    source.execute(f"PURGE BINARY LOGS TO '{source.binlog_files()[-1]}'")
    cluster.start()
    node = cluster.nodes[0]
    wait_for(lambda: node.receiver_status()["status"] == "error", what="state `error`")
    held = node.status()["executed_gtid_set"]
    missing = source.value("SELECT GTID_SUBTRACT(%s, %s)", lost, held)
    assert missing in node.receiver_status()["error"]


def test_ports_in_use(world: World) -> None:
    """A port that somebody else has is named; nothing is stored, and the node goes on."""
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        body = {"addr": address, "user": LISTENER_USER, "password": LISTENER_PASSWORD}
        reply = node.request("PUT", "/binlog/server/start", body)
        assert (reply.status, reply.message) == (
            409,
            f"listen on {address}: address already in use",
        )
        assert node.listener_status()["status"] == "stopped"
        for key, value in (
            ("peer-url", f"http://{address}"),
            ("admin-url", f"http://{address}"),
            ("metrics-addr", address),
        ):
            other = world.node(f"other-{key}", **{key.replace("-", "_"): value})
            output = refused(other)
            assert address in output
            assert "address already in use" in output.lower()
    node.start_listener()


def test_directories_that_are_not_its_own(world: World) -> None:
    """A directory that is open, of another node, or of a newer format is refused and left alone."""
    cluster = world.cluster(count=1)
    node = cluster.nodes[0]

    second = world.node(node.name, data_dir=str(node.data_dir))
    assert str(node.data_dir) in refused(second)

    cluster.stop()
    other = world.node("somebody-else", data_dir=str(node.data_dir))
    output = refused(other)
    assert "somebody-else" in output
    assert node.name in output

    before = {file: file.read_bytes() for file in node.data_dir.rglob("*") if file.is_file()}
    changed = _pretend_newer_format(node.data_dir)
    assert str(node.data_dir) in refused(node)
    assert "format" in node.output()
    changed.write_bytes(before[changed])
    cluster.start()
    assert cluster.leader() is node


def _pretend_newer_format(directory: Path) -> Path:
    """Raise the number in the directory's format file, and tell which file that was."""
    file = directory / "FORMAT"
    file.write_text(f"{int(file.read_text()) + 1000}\n")
    return file


def test_joining_wrongly(world: World) -> None:
    """A joiner whose name or URL the cluster does not know is told so, and the cluster goes on."""
    cluster = world.cluster()
    leader = cluster.leader()
    joiner = world.node("n4", initial_cluster_state="existing")
    known = ",".join(f"{node.name}={node.peer_url}" for node in cluster)
    joiner.configure(initial_cluster=f"{known},n4={joiner.peer_url}")
    output = refused(joiner)
    assert "n4" in output

    leader.ask("POST", "/members", {"name": "n4", "peer_url": joiner.peer_url, "learner": True})
    again = leader.request("POST", "/members", {"name": "n4", "peer_url": joiner.peer_url})
    assert again.status == 409
    elsewhere = f"http://127.0.0.1:{free_port()}"
    wrong_url = world.node("n4", peer_url=elsewhere, initial_cluster_state="existing")
    wrong_url.configure(
        initial_cluster=f"{known},n4={elsewhere}", data_dir=str(world.directory / "wrong-url")
    )
    assert elsewhere in refused(wrong_url)
    wrong_name = world.node("n5", initial_cluster_state="existing")
    wrong_name.configure(peer_url=joiner.peer_url, initial_cluster=f"{known},n5={joiner.peer_url}")
    assert "n5" in refused(wrong_name)
    assert leader.request("DELETE", "/members", {"name": "nobody"}).status == 404
    assert cluster.leader() is leader
    joiner.start()
    joiner.stop()


def test_garbage_on_the_peer_port(world: World, modern: Installation) -> None:
    """Noise, half frames and giant lengths on the peer port end only their own connection."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster()
    cluster.start_receiver(source)
    leader = cluster.leader()
    term = leader.status()["term"]
    url = httpx.URL(leader.peer_url)
    noises = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(100_000),
        b"\xff" * 64,
        b"\x00" * 64,
        struct.pack("<I", 1 << 31) + b"abc",
        struct.pack(">I", 1 << 31) + b"abc",
        b"\x01",
    ]
    for noise in noises:
        with socket.create_connection((url.host, url.port or 0), timeout=15) as connection:
            try:
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass
    idle = [socket.create_connection((url.host, url.port or 0)) for _ in range(20)]
    assert_works(cluster, source)
    for connection in idle:
        connection.close()
    assert cluster.leader() is leader
    assert leader.status()["term"] == term


def test_garbage_on_the_replica_port(world: World, modern: Installation) -> None:
    """Noise, half packets and wrong passwords on the replica port end only their own connection."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1)
    cluster.start_receiver(source)
    cluster.start_listeners()
    node = cluster.nodes[0]
    login = {"port": node.listen_port, "user": LISTENER_USER, "password": LISTENER_PASSWORD}
    with RawReader(**login, heartbeat_seconds=0.3) as attached:
        half_answer = struct.pack("<IIB", 0x000AA285, 1 << 24, 45) + b"\0" * 23 + b"someb"
        for noise in (
            os.urandom(5000),
            b"\xff\xff\xff\x01" + b"x" * 100,
            b"\x00\x00\x00\x01",
            b"\x05",
            len(half_answer).to_bytes(3, "little") + b"\x01" + half_answer,
            (len(half_answer) + 50).to_bytes(3, "little") + b"\x01" + half_answer,
        ):
            with socket.create_connection(("127.0.0.1", node.listen_port), timeout=15) as client:
                greeting = client.recv(4096)
                assert greeting[4] == 10
                try:
                    client.sendall(noise)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass
                except ConnectionError:
                    pass
        for user, password in ((LISTENER_USER, "wrong-3d"), ("nobody", "wrong-3d"), ("", "")):
            with pytest.raises(pymysql.err.OperationalError) as raised:
                pymysql.connect(
                    host="127.0.0.1",
                    port=node.listen_port,
                    user=user,
                    password=password,
                    ssl_disabled=True,
                )
            assert raised.value.args[0] == 1045
        assert_works(cluster, source)
        last = f"{source.server_uuid()}:{source.gtid_executed().rpartition('-')[2]}"
        wait_for(lambda: last in attached.seen.transactions, what=last)
        assert attached.seen.faults == []


def test_statements_and_dumps_that_cannot_be_answered(world: World, modern: Installation) -> None:
    """An unknown statement leaves the connection open; an impossible dump gets error 1236."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(count=1, server={"wait-for-catch-up": "1s"})
    cluster.start_receiver(source)
    cluster.start_listeners()
    assert_works(cluster, source)
    node = cluster.nodes[0]
    login = {"port": node.listen_port, "user": LISTENER_USER, "password": LISTENER_PASSWORD}
    connection = pymysql.connect(host="127.0.0.1", ssl_disabled=True, **login)
    try:
        with connection.cursor() as cursor:
            for statement in ("DELETE FROM mysql.user", "SELECT * FROM a JOIN b", "\x00\xff", ";"):
                with pytest.raises(pymysql.err.MySQLError) as raised:
                    cursor.execute(statement)
                assert raised.value.args[0] in {1064, 1235, 1065, 1227}
            with pytest.raises(pymysql.err.MySQLError) as raised:
                cursor.execute("SELECT @@no_such_variable")
            assert raised.value.args[0] == 1193
            cursor.execute("SELECT 1")
            assert cursor.fetchall() == ((1,),)
            cursor.execute("SHOW PROCESSLIST")
            assert LISTENER_PASSWORD not in str(cursor.fetchall())
    finally:
        connection.close()

    uuid = source.server_uuid()
    name, end = source.binlog_position()
    impossible = (
        {"gtid_set": f"{uuid}:1-1000000"},
        {"gtid_set": None, "file": "mysql-bin.999999"},
        {"gtid_set": None, "file": name, "position": end - 5},
        {"gtid_set": None, "file": name, "position": end + 100_000},
    )
    for request in impossible:
        with RawReader(**login, **request) as reader:
            seen = reader.join(seconds=30)
            assert seen.end is not None
            assert seen.end.startswith("1236 "), (request, seen)
    with RawReader(**login, non_blocking=True) as reader:
        assert reader.join().faults == []


def test_configuration_with_mistakes(world: World) -> None:
    """Every mistake is told at once, by key; the exit status is 2 for the check and the run."""
    node = world.node("n1", surprise=1, election_timeout="never", reserve_data_size="tiny")
    output = refused(node, status=2)
    checked = run_kingbus("config", "check", str(node.config_file))
    assert checked.returncode == 2
    for text in (output, checked.stdout + checked.stderr):
        assert "Traceback" not in text
        for key in ("surprise", "election-timeout", "reserve-data-size"):
            assert key in text
    node.config_file.write_text("name: [unclosed\n")
    checked = run_kingbus("config", "check", str(node.config_file))
    assert checked.returncode == 2
    assert "Traceback" not in checked.stderr
    missing = run_kingbus("run", "--config", str(world.directory / "nothing.yaml"))
    assert missing.returncode == 2
    assert "nothing.yaml" in missing.stderr


def test_passwords_are_nowhere(world: World, modern: Installation) -> None:
    """Neither password appears in a data directory, a log, a status or the list of processes."""
    source = world.server(modern, "source", server_id=1)
    workload.make_tables(source)
    cluster = world.cluster(log_level="debug")
    cluster.start_receiver(source)
    cluster.start_listeners()
    with pytest.raises(pymysql.err.OperationalError):
        pymysql.connect(
            host="127.0.0.1",
            port=cluster.nodes[0].listen_port,
            user=LISTENER_USER,
            password="guess-of-somebody",
            ssl_disabled=True,
        )
    assert_works(cluster, source)
    leader = cluster.leader()
    leader.kill9()
    assert_works(cluster, source)
    leader.start()
    secrets = [text.encode() for text in (REPLICATION_PASSWORD, LISTENER_PASSWORD)]
    secrets.append(b"guess-of-somebody")
    for node in cluster:
        for path in ("/binlog/syncer/status", "/binlog/server/status", "/status", "/cluster"):
            answer = json.dumps(node.get(path)).encode()
            assert not any(secret in answer for secret in secrets)
        command = Path(f"/proc/{node.pid}/cmdline").read_bytes()
        assert not any(secret in command for secret in secrets)
    cluster.stop()
    files = [file for node in cluster for file in node.directory.rglob("*") if file.is_file()]
    assert len(files) > 6
    for file in files:
        content = file.read_bytes()
        found = [secret for secret in secrets if secret in content]
        assert found == [], f"{file} contains a password"
