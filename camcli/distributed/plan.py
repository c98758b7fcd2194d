"""What all workers of a run must know, and the check that a machine has what a worker needs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from camcli import __version__
from camcli.addresses import is_address, masked
from camcli.config.fingerprint import run_settings
from camcli.config.run import RunConfig
from camcli.errors import CamcliError, ImageError
from camcli.images.archives import Member
from camcli.images.remote.folder import output_at
from camcli.layout import CLUSTER
from camcli.output.root import Root
from camcli.records import escape_name
from camcli.source import Source


@dataclass(frozen=True)
class Sample:
    """A file or object of the inputs that every machine must see with the same size.

    ``source``: None if there are no inputs. ``size``: in bytes; None: no check.
    """

    source: Source | None
    size: int | None


@dataclass(frozen=True)
class Plan:
    """What all workers of a run must know.

    ``config``: the options, with an absolute path or an address as output. ``settings``: from ``run_settings``. ``folder``: the
    current folder of the program that started the run. ``mark``: the contents of the file CLUSTER in the output folder, or of the
    object in a store. ``images``: number of images to explain, for the decision whether to compile. ``sample``: a file that every
    node must see.
    """

    config: RunConfig
    settings: Mapping[str, Any]
    folder: str
    mark: str
    images: int
    sample: Sample
    version: str = __version__
    python: str = platform.python_version()


_MOST_MARK = 1024
"""Maximum size of a mark in bytes."""

_MOST_ASKED = 3
"""How many objects of a store are tried to find one that can be read."""


def sample_of(sources: Iterable[Source]) -> Sample:
    """The first of ``sources`` that exists, or the archive that it is in; without a size if there is none."""
    sample = Sample(None, None)
    asked = 0
    for source in sources:
        source = source.archive.source if isinstance(source, Member) else source
        sample = Sample(source, _size_now(source))
        asked += source.is_remote
        if sample.size is not None or asked == _MOST_ASKED:
            break
    return sample


def _size_now(source: Source) -> int | None:
    """The size of a source as this machine sees it; None if it does not."""
    if source.is_remote:
        try:
            with source.range(0, 1) as contents:
                contents.file.read(1)
                return contents.size
        except ImageError:
            return None
    stamp = source.stamp()
    return None if stamp is None else stamp.size


def what_is_missing(plan: Plan, *, is_start: bool) -> str:
    """Why this machine cannot explain images for ``plan``; "" if it can. Changes the current folder to that of the plan.

    ``is_start``: the run has just begun, so that no file of the inputs can have changed since.
    """
    if plan.version != __version__:
        return f"has camcli {__version__}, and the run was started by camcli {plan.version}; install the same version everywhere"
    try:
        os.chdir(plan.folder)
    except OSError as error:
        return f"cannot enter the current folder {escape_name(plan.folder)!r} of the run ({error.strerror})"
    sample = plan.sample
    if is_start and sample.size is not None and sample.source is not None:
        image, size = escape_name(sample.source.path), _size_now(sample.source)
        if size is None and sample.source.is_remote:
            return f"cannot read {image!r}: {sample.source.why_unreadable()}"
        if size is None:
            return f"does not see the image {image!r}; the inputs must be on a file system of all nodes"
        if size != sample.size:
            return f"sees another file at {image!r}: {size} bytes instead of {sample.size}"
    if is_address(plan.config.output):
        try:
            if output_at(plan.config.output).read(CLUSTER, _MOST_MARK) != plan.mark.encode("ascii"):
                return f"sees another store at {escape_name(masked(plan.config.output))!r}"
        except CamcliError as error:
            return f"does not see the output of the run: {str(error).rstrip('.')}; every node needs its own credentials"
    elif _mark_in(plan.config.output) != plan.mark:
        return (
            f"does not see the output folder {escape_name(plan.config.output)!r} of the run; it must be on a file system of all "
            "nodes"
        )
    try:
        settings = run_settings(plan.config, str(plan.settings["inputs"]))
    except CamcliError as error:
        return f"lacks a file of the run: {error}"
    different = sorted(key for key in plan.settings if settings.get(key) != plan.settings[key])
    if different:
        names = ", ".join("--" + key.removesuffix("-sha256") for key in different)
        return f"has no file, or another one, for {names}"
    return ""


def _mark_in(output: str) -> str:
    try:
        return Root(output).read(CLUSTER).decode("ascii", "replace")
    except OSError:
        return ""
