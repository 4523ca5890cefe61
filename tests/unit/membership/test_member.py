"""Members: addresses, names, ids."""

import hashlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus.addresses import is_wildcard
from kingbus.membership.errors import MemberNameError, PeerUrlError
from kingbus.membership.member import (
    Member,
    PeerAddress,
    check_name,
    derive_cluster_id,
    derive_member_id,
    normalize_url,
    normalize_urls,
)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://10.0.0.1:9590", "http://10.0.0.1:9590"),
        (" HTTP://Node1:80/ ", "http://node1:80"),
        ("https://[::1]:5", "https://[::1]:5"),
    ],
)
def test_a_url_has_one_spelling(url, normal):
    """Case, blanks and the last slash do not make another address."""
    assert normalize_url(url) == normal


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("10.0.0.1:9590", "http://"),
        ("ftp://h:1", "http://"),
        ("http://h", "no port"),
        ("http://h:0", "no port"),
        ("http://:80", "no host"),
        ("http://h:99999", "not a URL"),
        ("http://[::1:80", "not a URL"),
        ("http://0.0.0.0:80", "wildcard"),
        ("http://[::]:80", "wildcard"),
        ("http://h:80/path", "more than"),
        ("http://user:secret@h:80", "more than"),
        ("http://h:80?x", "more than"),
    ],
)
def test_what_peers_cannot_dial_is_refused(url, complaint):
    """Each kind of unusable URL is refused, saying what is wrong with it."""
    with pytest.raises(PeerUrlError, match=complaint):
        normalize_url(url)


@given(
    host=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(
        lambda address: (
            not is_wildcard(str(address))
            and not (isinstance(address, ipaddress.IPv6Address) and address.scope_id)
        )
    ),
    port=st.integers(1, 65535),
    scheme=st.sampled_from(["http", "https"]),
)
def test_an_address_reads_back_as_it_is_written(host, port, scheme):
    """str() of an address parses to the same address."""
    address = PeerAddress(scheme=scheme, host=str(host), port=port)

    assert PeerAddress.parse(str(address)) == address


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a,b", "a/b", "a\n", "x" * 65, "\x00"])
def test_a_name_must_fit_lists_and_lines(name):
    """Names with separators, blanks or control characters are refused."""
    with pytest.raises(MemberNameError):
        check_name(name)


def test_the_id_of_an_initial_member_follows_from_name_and_urls():
    """Pinned: the first eight bytes of SHA-1 over name and sorted URLs; disks depend on it."""
    digest = hashlib.sha1(b"n1\0http://h:1\0http://h:2").digest()

    assert derive_member_id("n1", ["http://h:2", "http://h:1"]) == int.from_bytes(digest[:8], "big")


@given(index=st.integers(1, 2**40), other=st.integers(0, 2**40))
def test_a_returning_name_gets_another_id(index, other):
    """With the same name and URLs, another index gives another id."""
    same = derive_member_id("n", ["http://h:1"], index=index)

    assert (same == derive_member_id("n", ["http://h:1"], index=other)) == (index == other)


@given(st.lists(st.integers(1, 2**64 - 3), min_size=1, max_size=9, unique=True), st.randoms())
def test_the_cluster_id_does_not_depend_on_order(ids, random):
    """However the members are listed, they begin the same cluster."""
    shuffled = ids.copy()
    random.shuffle(shuffled)

    assert derive_cluster_id(ids) == derive_cluster_id(shuffled)


def test_urls_are_a_set():
    """Order and repeats of URLs do not matter."""
    assert normalize_urls(["http://b:2", "http://a:1/", "http://b:2"]) == (
        "http://a:1",
        "http://b:2",
    )


def test_a_member_survives_its_context():
    """Nothing of a member is lost in the context of a change."""
    member = Member(
        id=2**64 - 3,
        name="n",
        peer_urls=("http://h:1",),
        admin_urls=("http://h:2",),
        learner=True,
        promote=True,
    )

    assert Member.from_context(member.to_context()) == member
