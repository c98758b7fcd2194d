"""Objects in S3 and stores that speak its language, with the client of s3fs, which knows endpoints, regions and credentials."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import mimetypes
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

import botocore.exceptions
import fsspec
from fsspec.asyn import sync

from camcli.errors import ImageError, first_line
from camcli.images.remote.store import (
    CONNECT_SECONDS,
    PIECE,
    SILENT_SECONDS,
    ChangedError,
    Listed,
    NotThereError,
    Passing,
    Piece,
    RefusedError,
)
from camcli.records import Stamp

_CHUNK = 1 << 18
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_TOTAL = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

_MOST_PIECES = 9_000
"""S3 takes an object in at most 10,000 pieces."""

_SAME_BYTES = 3
"""How often the same bytes must come until they count as right although their MD5 is not the ETag of the object."""

_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "NotFound", "404", "NoSuchVersion"})
_PASSING = frozenset({
    "SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestLimitExceeded",
    "BandwidthLimitExceeded", "TooManyRequestsException", "ServiceUnavailable", "InternalError", "RequestTimeout", "Busy",
    "PriorRequestNotComplete", "XAmzContentSHA256Mismatch",
})  # fmt: skip
"""Codes of errors that may pass, also where the status is below 500."""

_CREDENTIALS = frozenset({
    "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "RequestExpired", "InvalidClientTokenId", "AuthFailure",
})  # fmt: skip

_NO_KEYS = (
    "no credentials for s3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket set "
    "FSSPEC_S3_ANON=true"
)


class S3:
    """A ``Backend`` for s3."""

    def __init__(self) -> None:
        own = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        once = {"retries": {"total_max_attempts": 1, "mode": "standard"}}  # the tries are counted in one place
        limits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENT_SECONDS, "max_pool_connections": 32}
        self._files = fsspec.filesystem(
            "s3", skip_instance_cache=True, use_listings_cache=False, config_kwargs={**limits, **own, **once}
        )
        self._has_md5: bool | None = None  # not known yet
        self._misfits: dict[str, tuple[str, int]] = {}

    def look(self, url: str, seconds: float) -> Piece:
        """What is at ``url``."""

        async def read(client: Any, where: dict[str, str]) -> Piece:
            found = await client.head_object(**self._with_settings(client.head_object, where))
            return Piece(None, _stamp(found, found["ContentLength"]), found["ContentLength"])

        return self._ask(url, seconds, read)  # type: ignore[no-any-return]

    def whole(self, url: str, most: int, seconds: float) -> Piece:
        """The object, if it has at most ``most`` bytes."""
        piece, digest = self._read(url, most, seconds)
        if piece.data is not None and digest and self._has_md5 is not False:
            found = hashlib.md5(piece.data, usedforsecurity=False).hexdigest()
            if found == digest:
                self._has_md5 = True
            else:
                self._check_misfit(url, found)
        self._misfits.pop(url, None)
        return piece

    def _check_misfit(self, url: str, found: str) -> None:
        """Raise Passing for bytes with another MD5 than their ETag says, unless this store may have ETags that are no MD5.

        That is so if no ETag has been one, and the same bytes have come several times.
        """
        before, times = self._misfits.get(url, ("", 0))
        times = times + 1 if before == found else 1
        if self._has_md5 is None and times >= _SAME_BYTES:
            self._has_md5 = False
            return
        self._misfits[url] = (found, times)
        raise Passing("the bytes do not match their checksum")

    def _read(self, url: str, most: int, seconds: float) -> tuple[Piece, str]:
        """The object, and the MD5 of its bytes if its ETag should be that."""

        async def read(client: Any, where: dict[str, str]) -> tuple[Piece, str]:
            found = await client.get_object(**self._with_settings(client.get_object, where))
            async with found["Body"] as body:
                size = found["ContentLength"]
                stamp = _stamp(found, size)
                if size > most:
                    body.close()
                    return Piece(None, stamp, size), ""
                data = await _bytes_of(body, size)
            md5 = _MD5.fullmatch(stamp.version)
            is_encrypted = "SSECustomerAlgorithm" in found or "kms" in found.get("ServerSideEncryption", "")
            return Piece(data, stamp, size), md5[1] if md5 and not is_encrypted else ""

        return self._ask(url, seconds, read)  # type: ignore[no-any-return]

    def part(self, url: str, start: int, size: int, stamp: Stamp, seconds: float) -> Piece:
        """``size`` bytes from ``start`` on of the object with this stamp. Raises RefusedError if the store sends others."""

        async def read(client: Any, where: dict[str, str]) -> Piece:
            wanted = {**where, "Range": f"bytes={start}-{start + size - 1}"}
            if stamp.version:
                wanted["IfMatch"] = stamp.version
            found = await client.get_object(**self._with_settings(client.get_object, wanted))
            async with found["Body"] as body:
                total = _TOTAL.fullmatch(found.get("ContentRange", ""))
                if total is None or int(total[1]) != start or found["ContentLength"] != size:
                    body.close()
                    raise RefusedError("the store sends another part of the object than the one that was asked for")
                return Piece(await _bytes_of(body, size), _stamp(found, int(total[3])), int(total[3]))

        return self._ask(url, seconds, read)  # type: ignore[no-any-return]

    def copy(self, url: str, file: BinaryIO, seconds: float) -> Piece:
        """Not needed, as S3 sends parts. Raises RefusedError."""
        raise RefusedError("the store sends no parts of objects")

    def list(self, bucket: str, prefix: str) -> Iterator[Callable[[float], list[Listed]]]:
        """Yield functions that return a page of the objects whose keys begin with ``prefix``."""
        token: str | None = ""

        def page(seconds: float) -> list[Listed]:
            nonlocal token

            async def read(client: Any, where: dict[str, str]) -> Any:
                wanted = {"Bucket": bucket, "Prefix": prefix, **({"ContinuationToken": token} if token else {})}
                return await client.list_objects_v2(**self._with_settings(client.list_objects_v2, wanted))

            found = self._ask(f"s3://{bucket}/", seconds, read)
            token = found.get("NextContinuationToken") if found.get("IsTruncated") else None
            return [Listed(one["Key"], _stamp(one, one["Size"])) for one in found.get("Contents", ())]

        while token is not None:
            yield page

    def put(self, url: str, file: BinaryIO, size: int) -> Generator[Callable[[float], None]]:
        """Yield the steps that write ``file`` to ``url``: one, or for a large file an upload in several pieces."""
        kind, _ = mimetypes.guess_type(url)
        more = {"ContentType": kind} if kind else {}
        if size <= PIECE:
            yield self._step(url, "put_object", {**more, "Body": file.read()}, lambda _: None)
            return
        upload: dict[str, str] = {}
        tags: list[dict[str, Any]] = []
        is_complete = False
        try:
            yield self._step(url, "create_multipart_upload", more, lambda answer: upload.update(UploadId=answer["UploadId"]))
            while data := file.read(max(PIECE, -(-size // _MOST_PIECES))):
                part: dict[str, Any] = {"PartNumber": len(tags) + 1}
                tags.append(part)
                yield self._step(url, "upload_part", {**upload, **part, "Body": data}, partial(_take_tag, part))
            yield self._step(url, "complete_multipart_upload", {**upload, "MultipartUpload": {"Parts": tags}}, lambda _: None)
            is_complete = True
        finally:
            if upload and not is_complete:
                with contextlib.suppress(Exception):  # pieces that remain cost money; a rule of the bucket may remove them
                    self._step(url, "abort_multipart_upload", upload, lambda _: None)(SILENT_SECONDS)

    def _step(self, url: str, name: str, wanted: Mapping[str, Any], take: Callable[[Any], None]) -> Callable[[float], None]:
        """A function that calls the method ``name`` of the client for ``url`` and gives its answer to ``take``."""

        async def ask(client: Any, where: dict[str, str]) -> Any:
            method = getattr(client, name)
            return await method(**self._with_settings(method, {**where, **wanted}))

        return lambda seconds: take(self._ask(url, seconds, ask))

    def duplicate(self, source: str, url: str, seconds: float) -> None:
        """Copy the object at ``source`` to ``url`` inside the store."""
        bucket, _, key = source.partition("://")[2].partition("/")
        self._step(url, "copy_object", {"CopySource": {"Bucket": bucket, "Key": key}}, lambda _: None)(seconds)

    def delete(self, url: str, seconds: float) -> None:
        """Delete the object at ``url``."""
        self._step(url, "delete_object", {}, lambda _: None)(seconds)

    def _with_settings(self, method: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """``wanted`` with what the user has set for all requests, such as RequestPayer."""
        return self._files._get_s3_method_kwargs(method, **wanted)  # type: ignore[no-any-return]

    def _ask(self, url: str, seconds: float, read: Callable[..., Any]) -> Any:
        bucket, _, key = url.partition("://")[2].partition("/")

        async def ask() -> Any:
            await self._files.set_session()
            return await read(await self._files.get_s3(bucket), {"Bucket": bucket, "Key": key})

        try:
            return sync(self._files.loop, ask, timeout=seconds)
        except (Passing, ImageError, MemoryError):
            raise
        except Exception as error:
            raise _in_words(error) from None


def _take_tag(part: dict[str, Any], answer: Mapping[str, Any]) -> None:
    part["ETag"] = answer["ETag"]


async def _bytes_of(body: Any, size: int) -> bytes:
    data = bytearray()
    while chunk := await body.read(_CHUNK):
        data += chunk
    if len(data) != size:
        raise Passing(f"the connection ended after {len(data):,} of {size:,} bytes")
    return bytes(data)


def _stamp(found: Any, size: int) -> Stamp:
    """The stamp of an object: its size, and its ETag or else the time of its last change."""
    if version := str(found.get("ETag", ""))[:1024]:
        return Stamp(size, 0, version=version)
    changed = found.get("LastModified")
    return Stamp(size, 0 if changed is None else int(changed.timestamp()) * 1_000_000_000)


def _in_words(error: Exception) -> Exception:
    """What an error of botocore means."""
    if isinstance(error, botocore.exceptions.ClientError):
        return _answer_in_words(error)
    if isinstance(error, botocore.exceptions.NoCredentialsError | botocore.exceptions.PartialCredentialsError):
        return RefusedError(_NO_KEYS)
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return Passing("no answer in time")
    words = first_line(error, with_type=False)
    kind = type(error).__name__
    if isinstance(error, botocore.exceptions.HTTPClientError | botocore.exceptions.ConnectionError):
        return Passing(f"cannot reach the store: {words}")
    if kind in ("IncompleteReadError", "ResponseStreamingError", "FlexibleChecksumError", "ChecksumError", "ResponseParserError"):
        return Passing(f"a damaged answer: {words}")
    if type(error).__module__.startswith(("aiohttp", "asyncio", "urllib3", "http")) or isinstance(error, OSError):
        return Passing(f"the connection ended early: {words or kind}")
    if isinstance(error, botocore.exceptions.BotoCoreError):
        return RefusedError(f"{words} (see the settings of AWS: profile, region, endpoint)")
    return RefusedError(f"cannot be read: {first_line(error)}")


def _answer_in_words(error: Any) -> Exception:
    answer, found = error.response.get("ResponseMetadata", {}), error.response.get("Error", {})
    code, status = str(found.get("Code", "")), int(answer.get("HTTPStatusCode") or 0)
    if code == "NoSuchBucket":
        return NotThereError("there is no such bucket")
    if code in _MISSING or status == 404:
        return NotThereError()
    if code in ("PreconditionFailed", "InvalidRange") or status in (412, 416):
        return ChangedError()
    if code in _CREDENTIALS:
        return RefusedError(f"the store does not accept the credentials ({code}): renew them and run the same command again")
    if code == "RequestTimeTooSkewed":
        return RefusedError("the store refuses the request: the clock of this machine is wrong")
    if code == "InvalidObjectState":
        return RefusedError("the object is in an archive tier and must be restored first")
    if code in _PASSING or status >= 500 or status == 429:
        return Passing(f"the store answers {code or status}")
    if status in (401, 403):
        return RefusedError(
            f"the store refuses it ({code or status}): no permission, or it is missing and the bucket may not be listed"
        )
    return RefusedError(f"the store answers {code or status}: {str(found.get('Message', ''))[:200]}".rstrip(": "))
