"""What one process is started with: configuration, how it is wished, and the secrets.

Owns where passwords and tokens come from (files and environment). Must not know what they are for,
nor open anything else.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from kingbus.addresses import Address
from kingbus.config import Config
from kingbus.errors import ConfigError, KingbusError, Problem
from kingbus.joining import Joining
from kingbus.secrets import Secret, SecretError, read_secret_file

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
    standalone: bool = False
    peer_listen: Address | None = None
    joining: Joining | None = None
    source_password: Secret | None = None
    server_password: Secret | None = None
    token: Secret | None = None
    read_token: Secret | None = None


class RefusedError(KingbusError):
    """The process cannot run like this."""


def options_of(
    config: Config,
    *,
    standalone: bool = False,
    joining: Joining | None = None,
    source_password: Secret | None = None,
    server_password: Secret | None = None,
) -> Options:
    """Options with the secrets of files and environment. ConfigError for unreadable ones."""
    problems: list[Problem] = []

    def token(key: str, path: Path | None) -> Secret | None:
        found_token = found(key, path, "") if path is not None else None
        if found_token is not None and not found_token:
            problems.append(Problem(key=key, message=f"{path} is empty"))
        return found_token

    def found(key: str, path: Path | None, variable: str) -> Secret | None:
        if path is None:
            text = os.environ.get(variable)
            return Secret(text) if text is not None else None
        try:
            return read_secret_file(path)
        except SecretError as error:
            problems.append(Problem(key=key, message=str(error)))
            return None

    if source_password is None and config.source is not None:
        file = config.source.password_file
        source_password = found("source.password-file", file, "KINGBUS_SOURCE_PASSWORD")
    if server_password is None and config.server is not None and config.server.addr is not None:
        file = config.server.password_file
        server_password = found("server.password-file", file, "KINGBUS_SERVER_PASSWORD")
        if server_password is None and not problems:
            message = "is needed with server.addr (or KINGBUS_SERVER_PASSWORD)"
            problems.append(Problem(key="server.password-file", message=message))
    options = Options(
        config=config,
        standalone=standalone,
        peer_listen=None if standalone else config.peer_url.address,
        joining=joining,
        source_password=source_password,
        server_password=server_password,
        token=token("auth.token-file", config.auth.token_file),
        read_token=token("auth.read-token-file", config.auth.read_token_file),
    )
    if problems:
        raise ConfigError(problems)
    return options
