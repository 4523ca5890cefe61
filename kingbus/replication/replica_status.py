"""SHOW REPLICA STATUS of a relay: its receiver, in the columns that monitoring tools read.

Owns: the columns of MySQL 8.4 in their order, their names in the new words and the old, and what a
relay says in each. There is no applier: what was received is what was executed, and the columns of
the SQL thread follow the receiver. Knows nothing of where the facts come from.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kingbus.mysql.constants import ColumnType
from kingbus.mysql.resultset import Column, ResultSet, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverFacts:
    """The receiver as SHOW REPLICA STATUS tells it. `state` is as in /binlog/syncer/status."""

    state: str
    host: str
    port: int
    user: str
    file: str = ""
    position: int = 0
    source_id: int = 0
    source_uuid: str = ""
    executed: str = ""
    auto_position: bool = True
    seconds_behind: int | None = None
    error_code: int = 0
    error: str = ""
    tls_mode: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    channel: str = ""


_STATES = {
    "running": ("Waiting for source to send event", "Yes"),
    "connecting": ("Connecting to source", "Connecting"),
    "error": ("", "No"),
    "stopped": ("", "No"),
}

_RETRY_SECONDS = 1
_RETRIES = 0
"""The relay connects again after a second at first, and without end, which MySQL writes as 0."""

_LARGE = frozenset(
    {
        "Read_Source_Log_Pos",
        "Relay_Log_Pos",
        "Exec_Source_Log_Pos",
        "Relay_Log_Space",
        "Until_Log_Pos",
        "Seconds_Behind_Source",
        "Source_Retry_Count",
    }
)
"""Numbers of 64 bits; all others have 32."""
_NULLABLE = frozenset({"Seconds_Behind_Source", "SQL_Remaining_Delay"})

_OLD_NAMES = {"Get_Source_public_key": "Get_master_public_key"}


def replica_status(receivers: Iterable[ReceiverFacts | None], *, old_words: bool) -> ResultSet:
    """A row for each channel, none where no source is set; `old_words`: SHOW SLAVE STATUS."""
    rows = [_row(each) for each in receivers if each is not None]
    row = rows[0] if rows else _row(ReceiverFacts(state="stopped", host="", port=0, user=""))
    columns = [
        Column(
            name=_old_name(name) if old_words else name,
            type=_type(name, value),
        )
        for name, value in row.items()
    ]
    return ResultSet(columns=columns, rows=[list(each.values()) for each in rows])


def _type(name: str, value: Value) -> ColumnType:
    if name in _LARGE:
        return ColumnType.LONGLONG
    is_number = isinstance(value, int) or name in _NULLABLE
    return ColumnType.LONG if is_number else ColumnType.VAR_STRING


def _old_name(name: str) -> str:
    return _OLD_NAMES.get(name) or name.replace("Source", "Master").replace("Replica_", "Slave_")


def _row(shown: ReceiverFacts) -> dict[str, Value]:
    state, running = _STATES.get(shown.state, ("", "No"))
    return {
        "Replica_IO_State": state,
        "Source_Host": shown.host,
        "Source_User": shown.user,
        "Source_Port": shown.port,
        "Connect_Retry": _RETRY_SECONDS,
        "Source_Log_File": shown.file,
        "Read_Source_Log_Pos": shown.position,
        "Relay_Log_File": "",
        "Relay_Log_Pos": 0,
        "Relay_Source_Log_File": shown.file,
        "Replica_IO_Running": running,
        "Replica_SQL_Running": "No" if shown.state == "stopped" else "Yes",
        "Replicate_Do_DB": "",
        "Replicate_Ignore_DB": "",
        "Replicate_Do_Table": "",
        "Replicate_Ignore_Table": "",
        "Replicate_Wild_Do_Table": "",
        "Replicate_Wild_Ignore_Table": "",
        "Last_Errno": 0,
        "Last_Error": "",
        "Skip_Counter": 0,
        "Exec_Source_Log_Pos": shown.position,
        "Relay_Log_Space": 0,
        "Until_Condition": "None",
        "Until_Log_File": "",
        "Until_Log_Pos": 0,
        **_tls(shown),
        "Seconds_Behind_Source": shown.seconds_behind,
        "Source_SSL_Verify_Server_Cert": "Yes" if shown.tls_mode == "verify-identity" else "No",
        "Last_IO_Errno": shown.error_code,
        "Last_IO_Error": shown.error,
        "Last_SQL_Errno": 0,
        "Last_SQL_Error": "",
        "Replicate_Ignore_Server_Ids": "",
        "Source_Server_Id": shown.source_id,
        "Source_UUID": shown.source_uuid,
        "Source_Info_File": "",
        "SQL_Delay": 0,
        "SQL_Remaining_Delay": None,
        "Replica_SQL_Running_State": "",
        "Source_Retry_Count": _RETRIES,
        "Source_Bind": "",
        "Last_IO_Error_Timestamp": "",
        "Last_SQL_Error_Timestamp": "",
        "Source_SSL_Crl": "",
        "Source_SSL_Crlpath": "",
        "Retrieved_Gtid_Set": shown.executed,
        "Executed_Gtid_Set": shown.executed,
        "Auto_Position": int(shown.auto_position),
        "Replicate_Rewrite_DB": "",
        "Channel_Name": shown.channel,
        "Source_TLS_Version": "",
        "Source_public_key_path": "",
        "Get_Source_public_key": 1,
        "Network_Namespace": "",
    }


def _tls(shown: ReceiverFacts) -> dict[str, Value]:
    return {
        "Source_SSL_Allowed": "No" if shown.tls_mode == "disabled" else "Yes",
        "Source_SSL_CA_File": shown.tls_ca,
        "Source_SSL_CA_Path": "",
        "Source_SSL_Cert": shown.tls_cert,
        "Source_SSL_Cipher": "",
        "Source_SSL_Key": shown.tls_key,
    }
