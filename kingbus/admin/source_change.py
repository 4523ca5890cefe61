"""What a source becomes of which only some settings change, as CHANGE REPLICATION SOURCE does it.

A pure function of what is stored and what is asked. Must not know who asks.
"""

from pydantic import ValidationError

from kingbus.admin import schema
from kingbus.admin.errors import BadRequestError
from kingbus.pb.command_pb2 import SourceConfig

PORT = 3306
"""Of a source whose port was never said."""


def changed_source(stored: SourceConfig | None, change: schema.ChangeSource) -> schema.StartSource:
    """The whole of the source's settings afterwards. Raises BadRequestError."""
    try:
        return _changed(stored, change)
    except ValidationError as error:
        # Its findings, never the input, which may be anything.
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise BadRequestError("; ".join(str(each["msg"]) for each in found)) from None


def _changed(stored: SourceConfig | None, change: schema.ChangeSource) -> schema.StartSource:
    before = stored if stored is not None else SourceConfig()
    wanted = schema.StartSource(
        mysql_addrs=_addresses(before, change),
        mysql_user=change.user if change.user is not None else before.user,
        mysql_password=change.password,
        semi_sync=before.semi_sync,
        syncer_id=before.server_id,
        syncer_uuid=before.server_uuid,
        start_from=before.start_from,
        flavor=before.flavor,
    )
    kept = {"mode": before.mode, "compression": before.compression}
    return wanted.model_copy(update={**kept, "tls": _tls(before, change)})


def _addresses(before: SourceConfig, change: schema.ChangeSource) -> list[str]:
    if change.host is None and change.port is None:
        return list(before.addresses)
    first = before.addresses[0] if before.addresses else f":{PORT}"
    host, _, port = first.rpartition(":")
    if change.host is not None:
        host = f"[{change.host}]" if ":" in change.host else change.host
    if not host:
        raise BadRequestError("the source has no host yet")
    return [f"{host}:{change.port if change.port is not None else port}"]


def _tls(before: SourceConfig, change: schema.ChangeSource) -> schema.SourceTls | None:
    stored = before.tls
    said = (change.ssl, change.ssl_verify, change.ssl_ca, change.ssl_cert, change.ssl_key)
    if all(each is None for each in said):
        if not before.HasField("tls"):
            return None
        return schema.SourceTls(
            mode=stored.mode or "preferred", ca=stored.ca, cert=stored.cert, key=stored.key
        )
    ca = change.ssl_ca if change.ssl_ca is not None else stored.ca
    # Files that are named are meant to be used, unless TLS was switched off.
    is_on = change.ssl if change.ssl is not None else stored.mode != "disabled"
    verifies = change.ssl_verify
    if verifies is None:
        verifies = stored.mode == "verify-identity"
    if not is_on:
        mode = "disabled"
    elif verifies:
        mode = "verify-identity"
    else:
        mode = "verify-ca" if ca else "required"
    return schema.SourceTls(
        mode=mode,
        ca=ca,
        cert=change.ssl_cert if change.ssl_cert is not None else stored.cert,
        key=change.ssl_key if change.ssl_key is not None else stored.key,
    )
