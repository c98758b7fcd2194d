"""Servers on this machine: one that serves bytes over HTTP and can misbehave, and an S3 server behind one that can."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import http.server
import logging
import os
import re
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

Fault = Callable[[str, int], str]
"""Which fault the n-th request (from 1 on) for a path gets; an empty text for none."""

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "AWS_DEFAULT_REGION": "us-east-1"}
"""The credentials of the S3 server, and its region."""

HUNG = 20.0
"""Seconds that a server that hangs says nothing, unless it is closed."""


@dataclass
class Answer:
    """What a server is about to say. ``length``: what the header says the length is, if not that of ``body``."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        with self.owner.lock:
            self.owner.asked[self.path] += 1
            nth = self.owner.asked[self.path]
            self.owner.requests.append((self.command, self.path, dict(self.headers)))
            self.owner.now += 1
            self.owner.most = max(self.owner.most, self.owner.now)
        try:
            self._answer(self.owner.fault(urllib.parse.unquote(self.path.partition("?")[0]), nth))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.owner.lock:
                self.owner.now -= 1

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _answer(self, fault: str) -> None:
        owner = self.owner
        if owner.delay:
            time.sleep(owner.delay)
        if fault == "close":
            self.close_connection = True
            return
        if fault == "hang":
            owner.ended.wait(HUNG)
            self.close_connection = True
            return
        answer = owner.answer_to(self)
        if fault.isdigit():
            code = {"503": "SlowDown", "403": "AccessDenied", "404": "NoSuchKey", "400": "ExpiredToken"}.get(fault, "InternalError")
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            answer = Answer(int(fault), body, {"Content-Type": "application/xml"})
        length = len(answer.body)
        if fault == "flip" and answer.body:
            answer.body = answer.body[:-3] + bytes([answer.body[-3] ^ 0xFF]) + answer.body[-2:]
        if fault == "other part":
            answer.headers["Content-Range"] = re.sub(r"\d+-", "0-", answer.headers.get("Content-Range", ""), count=1)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if fault == "unmeasured":
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "unmeasured":
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (length, answer.body) if length else b"0\r\n\r\n")
            return
        if fault == "cut":
            self.wfile.write(answer.body[: length // 2])
            self.close_connection = True
            return
        if fault == "trickle":
            self.wfile.write(answer.body[: length // 2])
            self.wfile.flush()
            owner.ended.wait(HUNG)
            self.close_connection = True
            return
        for start in range(0, length, 1 << 16):
            self.wfile.write(answer.body[start : start + (1 << 16)])
            with owner.lock:
                owner.sent += len(answer.body[start : start + (1 << 16)])


class Server:
    """An HTTP server in threads of this process. A context manager.

    ``asked``: how often each path was asked for; ``requests``: (method, path, headers) of each; ``sent``: bytes of bodies;
    ``most``: the largest number of requests at the same time. ``delay``: seconds before each answer.
    """

    def __init__(self) -> None:
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.fault: Fault = lambda path, nth: ""
        self.delay = 0.0
        self.forget()

    def forget(self) -> None:
        """Begin to count again."""
        self.asked: Counter[str] = Counter()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent = self.now = self.most = 0

    def __enter__(self) -> Server:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def answer_to(self, handler: _Handler) -> Answer:
        """What it says to a request."""
        raise NotImplementedError


class WebServer(Server):
    """Serves ``files``, path -> bytes. ``ranges``: whether it sends parts of them.

    ``etag``: ``strong``, ``weak`` or empty for none. ``dated``: whether it says when they changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.ranges, self.etag, self.dated = True, "strong", True
        self.changed: dict[str, float] = {}

    def answer_to(self, handler: _Handler) -> Answer:
        path = urllib.parse.unquote(handler.path.partition("?")[0], errors="surrogateescape")
        data = self.files.get(path)
        if data is None:
            return Answer(404, b"<html>nothing here</html>")
        headers: dict[str, str] = {}
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.etag:
            headers["ETag"] = tag if self.etag == "strong" else f"W/{tag}"
        if self.dated:
            headers["Last-Modified"] = email.utils.formatdate(self.changed.get(path, 1_500_000_000), usegmt=True)
        if "If-Match" in handler.headers and handler.headers["If-Match"] != tag:
            return Answer(412, b"", headers)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        if wanted is None or not self.ranges:
            return Answer(200, data, headers)
        start, end = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        if start >= len(data):
            return Answer(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
        return Answer(206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})


_PASSED_ON = ("Content-Type", "ETag", "Last-Modified", "Content-Range", "Location", "x-amz-server-side-encryption")


class Front(Server):
    """Passes requests on to another server on this machine, at ``port``."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._behind = port

    def answer_to(self, handler: _Handler) -> Answer:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._behind, timeout=30)) as connection:
            connection.request(handler.command, handler.path, body, dict(handler.headers))
            response = connection.getresponse()
            data = response.read()
            headers = {name: value for name in _PASSED_ON if (value := response.headers.get(name)) is not None}
            if handler.command == "HEAD":
                headers["Content-Length"] = response.headers.get("Content-Length", "0")
            return Answer(response.status, data, headers)


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """An S3 server on this machine, written by others. Yields its port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


@contextlib.contextmanager
def s3_front(port: int, patch: pytest.MonkeyPatch, bucket: str) -> Iterator[Front]:
    """A server that can misbehave before the S3 server at ``port``, with ``bucket`` made by its ``client``, which goes past it.

    The environment names it. Nothing else is reachable, and no settings of a user count.
    """
    import boto3

    with Front(port) as front:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        own = {"AWS_ENDPOINT_URL": front.url, "AWS_CONFIG_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"}
        for name, value in {**KEYS, **own}.items():
            patch.setenv(name, value)
        front.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        front.client.create_bucket(Bucket=bucket)
        yield front


def objects_below(client: Any, bucket: str, prefix: str) -> dict[str, bytes]:
    """The objects of ``bucket`` whose keys begin with ``prefix``: the rest of the key -> bytes."""
    return {
        one["Key"][len(prefix) :]: client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for one in page.get("Contents", ())
    }
