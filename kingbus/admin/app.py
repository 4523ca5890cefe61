"""The HTTP form of the operations: routes, bodies, replies. Nothing is decided here.

Every reply has the pinned shape: `{"message": "success", "data": ...}`, or a status of 400 and
above with `{"message": <one sentence>}`, those of the framework included.
"""

import html
from typing import Annotated, Any, cast

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from kingbus import metrics
from kingbus.admin import schema
from kingbus.admin.access import OPEN_PATHS, Access, App, Guard
from kingbus.admin.errors import BadRequestError, body_of, status_of
from kingbus.admin.leader import sentence
from kingbus.admin.operations import Operations, parse_lag
from kingbus.admin.schema import Failure, Reply
from kingbus.errors import KingbusError
from kingbus.log import get_logger

_log = get_logger("admin")

EVENTS_MAX = 10_000  # a few megabytes of reply; `from` goes on
CONTENT_BYTES_MAX = 4 << 20  # in memory for each request; `from` goes on
TOTAL_HEADER = "kingbus-file-bytes"
CLOSED_HEADER = "kingbus-file-closed"

_FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "malformed"},
    404: {"model": Failure, "description": "what is named does not exist"},
    409: {"model": Failure, "description": "the present state does not allow it"},
    503: {"model": Failure, "description": "no leader, or the outcome is unknown"},
}
_MEMBER_FAILURES = _FAILURES | {410: {"model": Failure, "description": "removed before"}}
_SOURCE_FAILURES = _FAILURES | {502: {"model": Failure, "description": "the source refused"}}
# What the layer around the routes answers, for any of them.
_ACCESS_FAILURES = {401: "no token, or a wrong one", 403: "not allowed"}
_BODY_FAILURES = {400: "malformed", 413: "the body is too large"}


def create_app(operations: Operations, *, version: str, access: Access | None = None) -> App:
    """The ASGI application of the admin API."""
    app = FastAPI(
        title="kingbus admin API",
        version=version,
        description=__doc__.split("\n\n", maxsplit=1)[1],
        redirect_slashes=False,
        redoc_url=None,
    )
    _map_errors(app)
    _describe(app)
    for routes in (
        _node_routes,
        _member_routes,
        _channel_routes,
        _source_routes,
        _server_routes,
        _binlog_routes,
        _storage_routes,
    ):
        app.include_router(routes(operations))
    return Guard(cast("App", app), access or Access())


def _describe(app: FastAPI) -> None:
    """Have `/openapi.json` promise the statuses that are answered, and no others.

    The framework promises 422 for whatever has an input; here that is 400, in our shape.
    """
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        description = made()
        for path, operations in description["paths"].items():
            for operation in operations.values():
                found = operation["responses"]
                wanted = dict(_ACCESS_FAILURES)
                if found.pop("422", None) is not None or "requestBody" in operation:
                    wanted |= _BODY_FAILURES
                if path in OPEN_PATHS:
                    wanted.pop(401)
                for status, text in wanted.items():
                    found.setdefault(str(status), _failure(text))
        schemas = description["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        return description

    app.openapi = openapi  # type: ignore[method-assign]


def _failure(text: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}}
    return {"description": text, "content": content}


def _success(data: object) -> JSONResponse:
    return JSONResponse({"message": "success", "data": _plain(data)})


def _plain(data: object) -> object:
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json", by_alias=True)
    if isinstance(data, list):
        return [_plain(each) for each in data]
    return data


def _map_errors(app: FastAPI) -> None:
    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, KingbusError)
        status = status_of(error)
        if status == 500:
            _log.error("request failed", error=error.explain())
        return JSONResponse(body_of(error), status_code=status)

    async def malformed(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return JSONResponse({"message": sentence(error.errors())}, status_code=400)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no such route: {request.url.path}"
        elif error.status_code == 405:
            message = f"{request.method} is not allowed on {request.url.path}"
        return JSONResponse(
            {"message": message}, status_code=error.status_code, headers=error.headers
        )

    async def broken(_request: Request, _error: Exception) -> Response:
        return JSONResponse({"message": "internal error; the log tells more"}, status_code=500)

    app.add_exception_handler(KingbusError, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, broken)


async def _forward(operations: Operations, request: Request, body: object = None) -> JSONResponse:
    if isinstance(body, BaseModel):
        # What was not given must stay "not given" on the leader.
        body = body.model_dump(mode="json", exclude_unset=True)
    return _success(await operations.forward(request.method, request.url.path, body))


def _lag(text: str | None) -> float | None:
    try:
        return parse_lag(text)
    except ValueError:
        raise BadRequestError("lag_seconds must be a number of seconds") from None


_LagSeconds = Annotated[
    str | None, Query(description="503 when further behind the source than this")
]


_Position = Annotated[int, Query(alias="from", ge=0, description="where an event begins")]
_Index = Annotated[int, Query(ge=0, description="of the log")]
_Limit = Annotated[int, Query(ge=1, le=EVENTS_MAX)]
_Offset = Annotated[int, Query(alias="from", ge=0, description="the first byte wanted")]
_ContentLimit = Annotated[int, Query(ge=1, le=CONTENT_BYTES_MAX)]
_Channel = Annotated[
    str,
    Query(
        max_length=schema.CHANNEL_CHARACTERS_MAX,
        description="the default one has no name",
    ),
]


def _node_routes(operations: Operations) -> APIRouter:
    routes = APIRouter(tags=["node"])
    health_of: dict[str, Any] = {
        "response_model": Reply[schema.HealthData],
        "responses": {503: _FAILURES[503]},
    }

    @routes.get("/", response_class=HTMLResponse, summary="A page for people")
    async def page() -> HTMLResponse:
        return HTMLResponse(_page(operations))

    @routes.get(
        "/status", summary="This node's own view", response_model=Reply[schema.NodeStatusData]
    )
    async def status() -> Response:
        return _success(operations.status())

    @routes.get("/health", summary="Whether this process does its work", **health_of)
    async def health(lag_seconds: _LagSeconds = None) -> Response:
        return _success(await operations.health(lag_seconds=_lag(lag_seconds)))

    @routes.get("/ready", summary="Whether replicas should be here", **health_of)
    async def ready(lag_seconds: _LagSeconds = None) -> Response:
        return _success(await operations.ready(lag_seconds=_lag(lag_seconds)))

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def exposition() -> Response:
        return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)

    return routes


def _member_routes(operations: Operations) -> APIRouter:
    routes = APIRouter(tags=["members"])
    members = Reply[list[schema.MemberData]]
    change: dict[str, Any] = {"response_model": members, "responses": _MEMBER_FAILURES}

    @routes.get(
        "/cluster",
        summary="The members and who leads",
        response_model=Reply[list[schema.ClusterMemberData]],
    )
    async def cluster() -> Response:
        return _success(operations.cluster())

    @routes.get("/members", summary="The members", response_model=members)
    async def list_members() -> Response:
        return _success(operations.members())

    @routes.post("/members", summary="Add a member", response_model=members, responses=_FAILURES)
    async def add(request: Request, body: schema.AddMember) -> Response:
        try:
            seen = body.seen_from(request.client.host if request.client is not None else None)
        except ValueError as error:
            raise BadRequestError(str(error)) from None
        return await _forward(operations, request, seen)

    @routes.put("/members", summary="Move a member to another peer URL", **change)
    async def update(request: Request, body: schema.UpdateMember) -> Response:
        return await _forward(operations, request, body)

    @routes.delete("/members", summary="Remove a member", **change)
    async def remove(request: Request, body: schema.RemoveMember) -> Response:
        return await _forward(operations, request, body)

    @routes.post("/members/promote", summary="Make a learner a voter", **change)
    async def promote(request: Request, body: schema.NameMember) -> Response:
        return await _forward(operations, request, body)

    @routes.post(
        "/members/replace", summary="Replace a voter by another member in one step", **change
    )
    async def replace(request: Request, body: schema.ReplaceMember) -> Response:
        return await _forward(operations, request, body)

    @routes.post(
        "/leader/transfer",
        summary="Hand leadership over",
        response_model=Reply[schema.LeaderData],
        responses=_MEMBER_FAILURES,
    )
    async def transfer(request: Request, body: schema.TransferLeader | None = None) -> Response:
        return await _forward(operations, request, body)

    return routes


def _channel_routes(operations: Operations) -> APIRouter:
    routes = APIRouter(tags=["channels"])
    channels = Reply[list[schema.ChannelData]]

    @routes.get("/channels", summary="The channels, as this node has them", response_model=channels)
    async def list_channels() -> Response:
        return _success(operations.channels())

    @routes.post(
        "/channels",
        summary="Add a channel for another source",
        description="Once every member runs a version that knows channels. One that is there "
        "already is left as it is.",
        response_model=channels,
        responses=_FAILURES,
    )
    async def add(request: Request, body: schema.AddChannel) -> Response:
        await _forward(operations, request, body)
        return _success(operations.channels())

    @routes.put(
        "/channels/users",
        summary="Bind a user to a channel",
        description="It reads that channel only, by the default channel's port, too. Without a "
        "name it reads the channel of the port that it comes by.",
        response_model=Reply[str],
        responses=_FAILURES,
    )
    async def bind(request: Request, body: schema.BindUser) -> Response:
        return await _forward(operations, request, body)

    @routes.delete(
        "/channels",
        summary="Remove a channel: not available yet",
        response_model=channels,
        responses=_FAILURES,
    )
    async def remove(request: Request, body: schema.AddChannel) -> Response:
        return await _forward(operations, request, body)

    return routes


def _source_routes(operations: Operations) -> APIRouter:
    routes = APIRouter(tags=["source"])
    change: dict[str, Any] = {"response_model": Reply[str], "responses": _FAILURES}

    @routes.put(
        "/binlog/syncer/start",
        summary="Pull from a source",
        description="The leader connects, logs in and checks within 10 s, then replicates it. "
        "An empty body starts what is stored.",
        response_model=Reply[str],
        responses=_SOURCE_FAILURES,
    )
    async def start(request: Request, body: schema.StartSource | None = None) -> Response:
        return await _forward(operations, request, body)

    @routes.put("/binlog/syncer/config", summary="Store a source without starting", **change)
    async def store(request: Request, body: schema.StartSource) -> Response:
        return await _forward(operations, request, body)

    @routes.put("/binlog/syncer/stop", summary="Stop pulling", **change)
    async def stop(request: Request, body: schema.OfChannel | None = None) -> Response:
        return await _forward(operations, request, body)

    @routes.put(
        "/binlog/syncer/failover",
        summary="Pull from another source",
        description="Compares what relay and new source have, stops the receiver, waits some "
        "seconds until the new source has all of it, and pulls from there. When it refuses "
        "everything is as it was.",
        response_model=Reply[schema.FailoverData],
        responses=_SOURCE_FAILURES,
    )
    async def fail_over(request: Request, body: schema.Failover | None = None) -> Response:
        return await _forward(operations, request, body)

    @routes.put(
        "/binlog/syncer/accept-gap",
        summary="Go on behind transactions that are lost",
        description="The set must be exactly what the source has purged and the relay lacks. "
        "Replicas that lack it get an error, not a silent gap.",
        response_model=Reply[str],
        responses=_SOURCE_FAILURES,
    )
    async def accept_gap(request: Request, body: schema.AcceptGap) -> Response:
        return await _forward(operations, request, body)

    @routes.get(
        "/binlog/syncer/status",
        summary="The receiver, from the leader",
        response_model=Reply[schema.SyncerStatusData],
        responses={404: _FAILURES[404], 503: _FAILURES[503]},
    )
    async def status(request: Request, channel: _Channel = "") -> Response:
        return await _forward(operations, request, {"channel": channel} if channel else None)

    return routes


def _server_routes(operations: Operations) -> APIRouter:
    routes = APIRouter(tags=["server"])
    change: dict[str, Any] = {"response_model": Reply[str], "responses": _FAILURES}

    @routes.put("/binlog/server/start", summary="Listen for replicas on this node", **change)
    async def start(body: schema.StartServer) -> Response:
        return _success(await operations.start_server(body))

    @routes.put("/binlog/server/stop", summary="Stop listening on this node", **change)
    async def stop(body: schema.OfChannel | None = None) -> Response:
        return _success(await operations.stop_server(body.channel if body is not None else ""))

    @routes.get(
        "/binlog/server/status",
        summary="This node's listener and its replicas",
        response_model=Reply[schema.ServerStatusData],
        responses={404: _FAILURES[404]},
    )
    async def status(channel: _Channel = "") -> Response:
        return _success(operations.server_status(channel))

    return routes


def _binlog_routes(operations: Operations) -> APIRouter:
    routes = APIRouter(tags=["binlog"])

    @routes.get(
        "/binlog/files",
        summary="The files held",
        response_model=Reply[list[schema.FileData]],
        responses={404: _FAILURES[404]},
    )
    async def files(channel: _Channel = "") -> Response:
        return _success(operations.files(channel))

    @routes.get(
        "/binlog/events",
        summary="Events of a file of this node",
        response_model=Reply[list[schema.EventData]],
        responses={400: _FAILURES[400], 404: _FAILURES[404]},
    )
    async def events(
        file: str, position: _Position = 4, limit: _Limit = 100, channel: _Channel = ""
    ) -> Response:
        return _success(await operations.events(file, position, limit, channel=channel))

    @routes.get(
        "/binlog/content",
        summary="Bytes of a file of this node, as the source has them",
        description="At most `limit` bytes from byte `from` on; fewer at the end of what is "
        f"visible. `{TOTAL_HEADER}` tells how many there are, `{CLOSED_HEADER}` whether no more "
        "will come.",
        response_class=Response,
        responses={
            200: {"content": {"application/octet-stream": {}}},
            400: _FAILURES[400],
            404: _FAILURES[404],
            503: _FAILURES[503],
        },
    )
    async def content(
        file: str,
        offset: _Offset = 0,
        limit: _ContentLimit = CONTENT_BYTES_MAX,
        channel: _Channel = "",
    ) -> Response:
        chunk = await operations.content(file, offset, limit, channel=channel)
        return Response(
            chunk.data,
            media_type="application/octet-stream",
            headers={
                TOTAL_HEADER: str(chunk.total),
                CLOSED_HEADER: "true" if chunk.closed else "false",
            },
        )

    @routes.get(
        "/archive",
        summary="The archive as this node knows it; null where none is configured",
        response_model=Reply[schema.ArchiveData | None],
    )
    async def archive() -> Response:
        return _success(operations.archive())

    @routes.get(
        "/archive/files",
        summary="The files in the archive",
        response_model=Reply[list[schema.ArchivedFileData]],
    )
    async def archived() -> Response:
        return _success(operations.archived_files())

    @routes.post(
        "/binlog/purge",
        summary="Purge files on all members",
        description="Those before `to`, or last written before the time `before`; never the open "
        "one, nor what an attached replica is reading. The reply lists the files left.",
        response_model=Reply[list[schema.FileData]],
        responses=_FAILURES,
    )
    async def purge(request: Request, body: schema.PurgeBinlogs) -> Response:
        return await _forward(operations, request, body)

    return routes


def _storage_routes(operations: Operations) -> APIRouter:
    routes = APIRouter(tags=["storage"])
    gone: dict[int | str, dict[str, Any]] = {
        400: _FAILURES[400],
        404: _FAILURES[404],
        410: {"model": Failure, "description": "purged, or passed already"},
    }

    @routes.get(
        "/storage/hash",
        summary="A sum over entries of this node's log",
        response_model=Reply[schema.HashData],
        responses=gone,
    )
    async def entries_hash(from_index: _Index, through_index: _Index) -> Response:
        return _success(await operations.storage.hash(from_index, through_index))

    @routes.get(
        "/storage/state",
        summary="The hash of the relay state at an index",
        response_model=Reply[schema.StateHashData],
        responses=gone | {503: _FAILURES[503]},
    )
    async def state(index: _Index) -> Response:
        return _success(await operations.storage.state(index))

    @routes.post(
        "/storage/entries",
        summary="Entries of this node's log, to repair another",
        response_model=Reply[list[schema.EntryData]],
        responses=gone | {409: _FAILURES[409]},
    )
    async def entries(body: schema.ReadEntries) -> Response:
        return _success(await operations.storage.entries(body.from_index, body.to_index + 1))

    return routes


def _page(operations: Operations) -> str:
    """A plain page of this node's own view; it needs no script."""
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(str(value))}</td></tr>"
        for key, value in operations.status().model_dump().items()
    )
    members = "".join(
        f"<tr><td>{html.escape(member.name)}</td><td>{html.escape(member.id)}</td>"
        f"<td>{'leader' if member.is_leader else 'learner' if member.is_learner else ''}</td>"
        f"<td>{html.escape(', '.join(member.admin_urls))}</td></tr>"
        for member in operations.cluster()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>kingbus</title>"
        "<style>body{font:15px sans-serif;margin:2em}th{text-align:left;padding-right:1em}"
        "td{word-break:break-all}</style><h1>kingbus</h1>"
        f"<table>{rows}</table><h2>Members</h2><table>{members}</table>"
        "<p><a href=/docs>API</a> <a href=/metrics>metrics</a></p></html>"
    )
