"""Addresses of objects in stores and on web servers (URLs), and how they are written without their secrets."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://")
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#'\"]*@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?'\"<>]*)\?[^\s'\"<>]+")
_SECRET = re.compile(
    r"(?i)\b(x-amz-[a-z0-9-]+|x-goog-[a-z0-9-]+|awsaccesskeyid|googleaccessid|signature|sig|token|access_token|api_?key|password)"
    r"=[^\s&'\"<>]+"
)


def is_address(text: str) -> bool:
    """Whether ``text`` is an address with a protocol, such as ``s3://bucket/photos``, and not a path."""
    return _ADDRESS.match(text) is not None


def masked(text: str) -> str:
    """``text`` with ``***`` for the secrets of every address in it: user names, passwords, and the whole query with signatures."""
    if "=" not in text and "://" not in text:
        return text
    return _SECRET.sub(r"\1=***", _QUERY.sub(r"\1?***", _USER.sub(r"\1***@", text)))
