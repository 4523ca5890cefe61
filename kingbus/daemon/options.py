"""What one process is started with: configuration, credentials, and how it is wished.

Must not know what any of it is for, nor open anything but the files of the credentials.
"""

import os
from dataclasses import dataclass, replace

from kingbus.addresses import Address
from kingbus.config import Config
from kingbus.credentials import Credentials, read_credentials
from kingbus.errors import ConfigError, KingbusError
from kingbus.joining import Joining
from kingbus.secrets import Secret

NO_PEER_URL = "http://standalone.invalid:1"
"""Stands for the peer URL of a node that has no peer listener, until one is made up for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one process is started with. `standalone`: no peers, ports may be free ones instead.

    `peer_listen` is where the peer port listens, None for no peer port: what peer-url said at
    first. A node that joined has the peer-url by which its cluster knows it. `joining` says whom to
    ask first to be added.
    """

    config: Config
    credentials: Credentials
    standalone: bool = False
    peer_listen: Address | None = None
    joining: Joining | None = None


class RefusedError(KingbusError):
    """The process cannot run like this."""


def options_of(
    config: Config,
    *,
    standalone: bool = False,
    joining: Joining | None = None,
    source_password: Secret | None = None,
) -> Options:
    """Options with the credentials of files and environment; `source_password` is used instead.

    ConfigError with every problem.
    """
    credentials, problems = read_credentials(config, os.environ)
    if problems:
        raise ConfigError(problems)
    if source_password is not None:
        credentials = replace(credentials, source_password=source_password)
    return Options(
        config=config,
        credentials=credentials,
        standalone=standalone,
        peer_listen=None if standalone else config.peer_url.address,
        joining=joining,
    )
