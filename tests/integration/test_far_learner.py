"""A learner behind a long way that loses packets, as scripts/far-learner makes one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import installations
from tests.support.installations import REPOSITORY, Installation

pytestmark = pytest.mark.mysql

SECONDS_MAX = 240


def may_make_links() -> bool:
    """Whether namespaces and TUN devices can be had here."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--net", "ip", "tuntap", "add", "dev", "t0", "mode", "tun"]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
    return made and Path("/dev/net/tun").exists()


def test_a_far_learner_gets_everything_while_the_load_goes_on(modern: Installation) -> None:
    """80 ms each way and every two hundredth packet lost, in either direction: it catches up with
    what was there before, follows what is written meanwhile, and the leader stays."""
    if not may_make_links():
        pytest.skip("no network namespaces or no TUN devices here")
    words = ["--seconds", "3", "--catch-up-mb", "4", "--mb-per-second", "0.3"]
    cache = {"KINGBUS_CACHE": str(installations.cache_directory())}
    answer = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "far-learner"), *words],
        env={**os.environ, **cache},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    told = answer.stdout + answer.stderr
    assert answer.returncode == 0, told
    assert "catches up with" in told
    assert "it has everything" in told
    assert "the same leader: yes" in told
