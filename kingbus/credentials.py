"""The passwords and tokens that a configuration names, read from files and environment.

`config check` and a start read them alike, here. The cluster's key is not among them: what may be
in its file is known to `kingbus.secrets`. Must not know what any of them opens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kingbus.errors import Problem
from kingbus.secrets import Secret, SecretError, read_secret_file

if TYPE_CHECKING:
    from kingbus.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """None for what is neither named nor in the environment."""

    source_password: Secret | None = None
    server_password: Secret | None = None
    token: Secret | None = None
    read_token: Secret | None = None
    archive_access_key: Secret | None = None
    archive_secret_key: Secret | None = None


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
    access_key = secret_key = None
    if config.archive is not None and config.archive.is_s3:
        archive = config.archive
        access_key = needed(
            "archive.access-key-file", archive.access_key_file, "KINGBUS_ARCHIVE_ACCESS_KEY"
        )
        secret_key = needed(
            "archive.secret-key-file", archive.secret_key_file, "KINGBUS_ARCHIVE_SECRET_KEY"
        )
    credentials = Credentials(
        source_password=source_password,
        server_password=server_password,
        token=token("auth.token-file", config.auth.token_file),
        read_token=token("auth.read-token-file", config.auth.read_token_file),
        archive_access_key=access_key,
        archive_secret_key=secret_key,
    )
    return credentials, problems
