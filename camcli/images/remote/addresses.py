"""What an address means: its protocol, its folders, and the name of an image at it."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urljoin, urlsplit

from camcli.addresses import is_address, masked
from camcli.errors import InputError
from camcli.output.names import MAX_NAME_BYTES
from camcli.records import escape_name

WEB = frozenset({"http", "https"})
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
_LOCAL = {
    "file": "give the path of the file or folder itself",
    "local": "give the path of the file or folder itself",
    "memory": "it is the memory of one process, and workers have their own",
    "data": "it is no place but the data itself",
}
"""Protocols that are refused, and why."""

_CHAINED = re.compile(r"[A-Za-z][\w+.-]*::[A-Za-z][\w+.-]*:/")
_UNSAFE = re.compile(r"[^A-Za-z0-9%/:?@!$&'()*+,;=~\[\]._-]")
_SIGNATURE = re.compile(
    r"(?i)x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id|sig|token|access_token|api_?key|password"
)
_SHARED_ACCESS = re.compile(r"se|sp|spr|sv|sr|st|ske|skoid|sks|skt|sktid|skv")
"""Names of parameters that say who may read an object and not which object it is; the second kind only beside ``sig`` (Azure)."""


@dataclass(frozen=True, slots=True)
class Address:
    """A place in a store. ``protocol``: ``s3``; ``parts``: bucket or host, and the parts of the key or path, decoded.

    ``url``: what is read. It may hold secrets and is never written; ``shown`` may.
    """

    protocol: str
    parts: tuple[str, ...]
    url: str

    @property
    def shown(self) -> str:
        """The address without its secrets."""
        return escape_name(masked(self.url))

    @property
    def folder(self) -> tuple[str, ...]:
        """The parts of the folder that it is in."""
        return self.parts[:-1] or self.parts

    @property
    def is_web(self) -> bool:
        """Whether it is on a web server, which lists nothing."""
        return self.protocol in WEB


def parsed(text: str) -> Address:
    """The address in ``text``. Raises InputError for a protocol or an address that is not supported."""
    shown = escape_name(masked(text))
    protocol, _, rest = text.partition("://")
    protocol = _ALIASES.get(protocol.lower(), protocol.lower())
    if protocol in _LOCAL:
        raise InputError(f"{shown!r} is not supported: {_LOCAL[protocol]}.")
    if _CHAINED.search(text):
        raise InputError(f"{shown!r} combines several protocols, which is not supported; an archive is read by its own address.")
    if protocol in WEB:
        return _web(protocol, text, shown)
    bucket, _, key = rest.partition("/")
    if not bucket or "\0" in rest:
        raise InputError(f"{shown!r} names no bucket: write {protocol}://BUCKET/PREFIX.")
    if "@" in bucket and ":" in bucket:
        raise InputError(
            f"{shown!r} contains a password; keys belong into the usual places of {protocol}, such as environment variables."
        )
    return Address(protocol, (bucket, *key.split("/")) if key else (bucket,), f"{protocol}://{rest}")


def _web(protocol: str, text: str, shown: str) -> Address:
    url = _UNSAFE.sub(lambda found: quote(found[0], errors="surrogateescape"), text)
    try:
        split = urlsplit(url)
        host = (split.hostname or "") + (f":{split.port}" if split.port else "")
    except ValueError as error:
        raise InputError(f"{shown!r} is not a valid address: {error}.") from error
    if not split.hostname:
        raise InputError(f"{shown!r} names no server: write {protocol}://HOST/PATH.")
    parts = [unquote(part, errors="surrogateescape") for part in split.path.lstrip("/").split("/")]
    query = parse_qsl(split.query, keep_blank_values=True)
    is_shared = any(name == "sig" for name, _ in query)
    kept = [
        (name, value) for name, value in query if not (_SIGNATURE.fullmatch(name) or (is_shared and _SHARED_ACCESS.fullmatch(name)))
    ]
    if kept:  # it says which object is meant
        digest = hashlib.sha256(urlencode(kept).encode()).hexdigest()[:12]
        stem, dot, extension = parts[-1].rpartition(".")
        parts[-1] = f"{stem}~{digest}.{extension}" if stem and dot else f"{parts[-1]}~{digest}"
    return Address(protocol, (host, *parts), url)


def line_of_list(line: str, base: Address) -> Address:
    """The address in a line of a list at ``base``: absolute, or relative to the list. Raises InputError, also for other protocols.

    A list is data: whoever wrote it must not reach files of this machine, nor stores that its reader has the keys of.
    """
    if is_address(line):
        found = parsed(line)
        if found.protocol != base.protocol and not (found.is_web and base.is_web):
            raise InputError(f"a list on {base.protocol}:// may not name {found.protocol}://")
        return found
    if base.is_web:
        return parsed(
            urljoin(base.url.partition("?")[0], _UNSAFE.sub(lambda found: quote(found[0], errors="surrogateescape"), line))
        )
    folder = base.url.rpartition("/")[0]
    return parsed(f"{base.protocol}://{base.parts[0]}{line}" if line.startswith("/") else f"{folder}/{line}")


def address_below(root: str, image: str) -> str:
    """The address of the image with that name below ``root``, as listed; an address with a query cannot be had back."""
    place = root.rstrip("/") + "/" if not root.endswith("://") else root
    if root.partition("://")[0] in WEB:
        return place + quote(image, safe="/:@!$&'()*+,;=~", errors="surrogateescape")
    return place + image


_BYTE = re.compile("[\udc80-\udcff]|%(?=25|[89A-F][0-9A-F])")
_ENCODED = re.compile("%(25|[89A-F][0-9A-F])")


def key_of_file(name: str) -> str:
    """The part of a key for the path ``name`` of a file: a byte that is no UTF-8 becomes ``%FF``, because keys are text.

    So that no two names have one key, a ``%`` before such digits becomes ``%25``.
    """
    return _BYTE.sub(lambda found: "%25" if found[0] == "%" else f"%{ord(found[0]) - 0xDC00:02X}", name)


def file_of_key(key: str) -> str:
    """The path of a file from which ``key_of_file`` made ``key``."""
    return _ENCODED.sub(lambda found: "%" if found[1] == "25" else chr(0xDC00 + int(found[1], 16)), key)


def root_of(protocol: str, parts: tuple[str, ...]) -> str:
    """The address of a folder as it is recorded, without secrets."""
    where = parts
    if protocol in WEB:
        where = (*parts[:1], *(quote(part, safe=":@!$&'()*+,;=~", errors="surrogateescape") for part in parts[1:]))
    return f"{protocol}://{'/'.join(where)}"


def image_name(parts: tuple[str, ...]) -> tuple[str, str]:
    """The name of an image at these parts below its root, and why it is refused; empty if it is not."""
    name = "/".join(parts)
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "replace").decode("ascii", "replace"), "its name is not valid Unicode"
    if "\0" in name:
        return name.replace("\0", "\\0"), "its name contains a NUL"
    if ".." in parts:
        return name, "its name leads out of the folder"
    if any("/" in part for part in parts):
        return name, "a part of its name contains a slash"
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts[:-1]):
        return name, f"a part of its name is longer than the {MAX_NAME_BYTES} bytes that a folder's name may have"
    return "/".join(part for part in parts if part not in ("", ".")) or name, ""


def is_hidden(parts: tuple[str, ...]) -> bool:
    """Whether a part begins with a dot, as of hidden files."""
    return any(part.startswith(".") and part not in (".", "..") for part in parts)
