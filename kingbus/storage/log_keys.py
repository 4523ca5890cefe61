"""The keys that may have sealed a part of a node's log.

Owns where they are looked for: what is configured, or given to a tool, else the directory's own.
Who needs one that is not there says so: see `LogStore.open`, and for passwords `ClusterKeyKeeper`.
Must not know what is sealed.
"""

from pathlib import Path

from kingbus.secrets import ClusterSecret, SecretError
from kingbus.storage.at_rest import Keyring, RestKey

__all__ = ["KEY_FILE", "log_keys", "log_keys_of_file"]

KEY_FILE = "cluster.key"
"""In the data directory; see `directory`."""


def log_keys(data_dir: Path, configured: ClusterSecret | None) -> Keyring:
    """For the log in a data directory. Blocks."""
    try:
        secret = configured or ClusterSecret.load(data_dir / KEY_FILE)
    except SecretError:
        return Keyring()
    return Keyring([RestKey.of(secret)])


def log_keys_of_file(data_dir: Path, key_file: Path | None) -> Keyring:
    """The same, for a tool that was given a key's file or none; SecretError for a bad one."""
    return log_keys(data_dir, ClusterSecret.load(key_file) if key_file is not None else None)
