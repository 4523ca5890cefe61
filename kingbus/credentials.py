"""The passwords, tokens and certificates that a configuration names, from files and environment.

`config check` and a start read them alike, here. The cluster's key is not among them: what may be
in its file is known to `kingbus.secrets`. Must not know what any of them opens.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kingbus.errors import Problem
from kingbus.secrets import Secret, SecretError, read_secret_file

if TYPE_CHECKING:
    from kingbus.config import Config, ServerTls


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelCredentials:
    """Of one named channel; its passwords come from files only."""

    source_password: Secret | None = None
    server_password: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """None for what is neither named nor in the environment."""

    source_password: Secret | None = None
    server_password: Secret | None = None
    token: Secret | None = None
    read_token: Secret | None = None
    archive_access_key: Secret | None = None
    archive_secret_key: Secret | None = None
    server_tls: ssl.SSLContext | None = field(default=None, repr=False)
    channels: Mapping[str, "ChannelCredentials"] = field(default_factory=dict)


def read_credentials(
    config: "Config", environment: Mapping[str, str]
) -> tuple[Credentials, list[Problem]]:
    """What was found, and every problem with the rest. A password may be empty, a token not."""
    problems: list[Problem] = []

    def of_file(key: str, path: Path) -> Secret | None:
        try:
            return read_secret_file(path)
        except SecretError as error:
            problems.append(Problem(key=key, message=error.explain()))
            return None

    def password(key: str, path: Path | None, variable: str) -> Secret | None:
        if path is not None:
            return of_file(key, path)
        text = environment.get(variable)
        return Secret(text) if text is not None else None

    def needed(key: str, path: Path | None, variable: str) -> Secret | None:
        found = password(key, path, variable)
        if not found and (found is not None or path is None):
            problems.append(Problem(key=key, message=f"is needed with s3://… (or {variable})"))
        return found

    def token(key: str, path: Path | None) -> Secret | None:
        found = of_file(key, path) if path is not None else None
        if found is not None and not found:
            problems.append(Problem(key=key, message=f"{path} is empty"))
        return found

    source_password = server_password = None
    if config.source is not None:
        key, path = "source.password-file", config.source.password_file
        source_password = password(key, path, "KINGBUS_SOURCE_PASSWORD")
    if config.server is not None and config.server.addr is not None:
        key, path = "server.password-file", config.server.password_file
        server_password = password(key, path, "KINGBUS_SERVER_PASSWORD")
        if server_password is None and path is None:
            message = "is needed with server.addr (or KINGBUS_SERVER_PASSWORD)"
            problems.append(Problem(key=key, message=message))
    channels = {}
    for number, channel in enumerate(config.channels):
        source, server = channel.source, channel.server
        key = f"channels.{number}.{{}}.password-file"
        of_source = source.password_file if source is not None else None
        channels[channel.name] = ChannelCredentials(
            source_password=of_file(key.format("source"), of_source) if of_source else None,
            server_password=of_file(key.format("server"), server.password_file) if server else None,
        )
    access_key = secret_key = None
    if config.archive is not None and config.archive.is_s3:
        archive = config.archive
        access_key = needed(
            "archive.access-key-file", archive.access_key_file, "KINGBUS_ARCHIVE_ACCESS_KEY"
        )
        secret_key = needed(
            "archive.secret-key-file", archive.secret_key_file, "KINGBUS_ARCHIVE_SECRET_KEY"
        )
    server_tls = None
    if config.tls.server is not None:
        try:
            server_tls = _server_context(config.tls.server.cert, config.tls.server.key)
        except (OSError, ValueError) as error:
            problems.append(_tls_problem(config.tls.server, error))
    credentials = Credentials(
        source_password=source_password,
        server_password=server_password,
        token=token("auth.token-file", config.auth.token_file),
        read_token=token("auth.read-token-file", config.auth.read_token_file),
        archive_access_key=access_key,
        archive_secret_key=secret_key,
        server_tls=server_tls,
        channels=channels,
    )
    return credentials, problems


def _server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS as a server, 1.2 and later as MySQL 8 has it. OSError, also of TLS; ValueError."""
    for path in (cert, key):
        path.open("rb").close()  # says which of the two is missing, which the next step does not
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    # Else OpenSSL would ask at the terminal, and a service would stand still there.
    raise ValueError("the key is sealed with a passphrase; store it without one, mode 0600")


def _tls_problem(tls: "ServerTls", error: Exception) -> Problem:
    if isinstance(error, ssl.SSLError):
        return Problem(
            key="tls.server", message=f"{tls.cert} and {tls.key} are no certificate and its key"
        )
    if isinstance(error, OSError):
        key = "tls.server.cert" if error.filename == str(tls.cert) else "tls.server.key"
        return Problem(key=key, message=f"{error.filename}: {error.strerror}")
    return Problem(key="tls.server.key", message=f"{tls.key}: {error}")
