"""An archive in an S3-compatible store, through boto3, which is imported here alone.

Owns the client's settings (timeouts, few retries: who calls here tries again with patience), what
of its errors means what, and how a large upload is gone on with. Blocks everywhere.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from kingbus.archive.errors import ConflictError, StoreError
from kingbus.secrets import Secret

CONNECT_SECONDS_MAX: Final = 5.0
READ_SECONDS_MAX: Final = 60.0
"""Between two packets; a part of 8 MiB takes as long as it takes."""
ATTEMPTS: Final = 2
PARTS_MAX: Final = 10_000
"""S3's own limit."""

_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchUpload"})
_THERE: Final = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
_NOT_KNOWN: Final = frozenset({"501", "NotImplemented"})


class S3Store:
    """See `store.Store`. `endpoint` empty: Amazon's own."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str,
        endpoint: str,
        region: str,
        access_key: Secret,
        secret_key: Secret,
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        try:
            self._client = boto3.session.Session().client(
                "s3",
                endpoint_url=endpoint or None,
                region_name=region,
                aws_access_key_id=access_key.reveal(),
                aws_secret_access_key=secret_key.reveal(),
                config=Config(
                    connect_timeout=CONNECT_SECONDS_MAX,
                    read_timeout=READ_SECONDS_MAX,
                    retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                    # Stores other than Amazon's rarely have names of their own for buckets, nor the
                    # newer kinds of checksum.
                    s3={"addressing_style": "path"} if endpoint else {},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    proxies={},
                ),
            )
        except (BotoCoreError, ValueError) as error:
            # What it finds in the environment, or in a bucket's name, it does not like.
            raise StoreError(f"s3://{bucket}: {error}") from None

    @property
    def shown(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    def size(self, key: str) -> int | None:
        with self._asking("HEAD", key):
            try:
                return int(self._client.head_object(**self._place(key))["ContentLength"])
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def get(self, key: str, start: int, size_max: int) -> bytes:
        with self._asking("GET", key):
            reply = self._client.get_object(
                **self._place(key), Range=f"bytes={start}-{start + size_max - 1}"
            )
            with reply["Body"] as body:
                return bytes(body.read(size_max))

    def put(self, key: str, data: bytes) -> None:
        with self._asking("PUT", key):
            self._once(self._client.put_object, key, Body=data)

    def upload(self, key: str) -> "S3Upload":
        with self._asking("upload", key):
            for known in self._uploads(key):
                parts = self._parts(key, known)
                if parts is not None:
                    return S3Upload(self, key, known, parts)
            begun = self._client.create_multipart_upload(**self._place(key))
            return S3Upload(self, key, begun["UploadId"], {})

    def names(self, prefix: str) -> list[str]:
        found: list[str] = []
        with self._asking("LIST", prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                found += [each["Key"] for each in page.get("Contents", ())]
        return sorted(each.removeprefix(self._prefix) for each in found)

    # -- large uploads ----------------------------------------------------------------------

    def _uploads(self, key: str) -> list[str]:
        """Those begun and not ended, the newest first; none where the store does not tell."""
        try:
            reply = self._client.list_multipart_uploads(
                Bucket=self._bucket, Prefix=self._prefix + key
            )
        except ClientError as error:
            if _code(error) in _MISSING | _NOT_KNOWN:
                return []
            raise
        found = [each for each in reply.get("Uploads", ()) if each["Key"] == self._prefix + key]
        found.sort(key=lambda each: str(each.get("Initiated", "")), reverse=True)
        return [each["UploadId"] for each in found]

    def _parts(self, key: str, upload: str) -> dict[int, str] | None:
        """Part numbers and entity tags; None for an upload that is gone."""
        parts: dict[int, str] = {}
        try:
            pages = self._client.get_paginator("list_parts")
            for page in pages.paginate(**self._place(key), UploadId=upload):
                parts |= {each["PartNumber"]: each["ETag"] for each in page.get("Parts", ())}
        except ClientError as error:
            if _code(error) in _MISSING | _NOT_KNOWN:
                return None
            raise
        return parts

    def send_part(self, key: str, upload: str, number: int, data: bytes) -> str:
        with self._asking("upload", key):
            reply = self._client.upload_part(
                **self._place(key), UploadId=upload, PartNumber=number, Body=data
            )
            return str(reply["ETag"])

    def complete(self, key: str, upload: str, tags: list[str]) -> None:
        parts = [{"PartNumber": at, "ETag": tag} for at, tag in enumerate(tags, start=1)]
        with self._asking("upload", key):
            self._once(
                self._client.complete_multipart_upload,
                key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )

    def give_up(self, key: str, upload: str) -> None:
        with self._asking("upload", key):
            self._client.abort_multipart_upload(**self._place(key), UploadId=upload)

    # -- calls ------------------------------------------------------------------------------

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _once(self, call: Any, key: str, **options: Any) -> None:
        """Writes an object that is not there yet; not every store can check that itself."""
        if self.size(key) is not None:
            raise ConflictError(f"{self.shown}{key} is there already")
        try:
            call(**self._place(key), **options, IfNoneMatch="*")
        except ClientError as error:
            if _code(error) in _THERE:
                raise ConflictError(f"{self.shown}{key} is there already") from None
            if _code(error) not in _NOT_KNOWN:
                raise
            call(**self._place(key), **options)

    @contextmanager
    def _asking(self, what: str, key: str) -> Iterator[None]:
        place = f"{what} {self.shown}{key}"
        try:
            yield
        except ClientError as error:
            told = error.response.get("Error", {})
            raise StoreError(f"{place}: {told.get('Code')} {told.get('Message', '')}") from None
        except (BotoCoreError, OSError, ValueError) as error:
            raise StoreError(f"{place}: {type(error).__name__}: {error}") from None


class S3Upload:
    """See `store.Upload`."""

    def __init__(self, store: S3Store, key: str, upload: str, parts: dict[int, str]) -> None:
        self._store = store
        self._key = key
        self._upload = upload
        self._parts = parts
        self._tags: list[str] = []

    def put(self, data: bytes) -> bool:
        number = len(self._tags) + 1
        if number > PARTS_MAX:
            raise StoreError(f"{self._store.shown}{self._key}: more than {PARTS_MAX} parts")
        known = self._parts.get(number)
        if known is not None:
            if known.strip('"') != hashlib.md5(data, usedforsecurity=False).hexdigest():
                # Not every store takes a part a second time.
                self._store.give_up(self._key, self._upload)
                raise StoreError(
                    f"{self._store.shown}{self._key}: an unfinished upload had another content, "
                    "and was given up"
                )
            self._tags.append(known)
            return False
        self._tags.append(self._store.send_part(self._key, self._upload, number, data))
        return True

    def finish(self) -> None:
        self._store.complete(self._key, self._upload, self._tags)


def _code(error: ClientError) -> str:
    told = error.response.get("Error", {}).get("Code")
    return str(told or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
