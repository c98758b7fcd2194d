"""What all workers of a run must know, and the check that a machine has what a worker needs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from camcli import __version__
from camcli.config.fingerprint import run_settings
from camcli.config.run import RunConfig
from camcli.errors import CamcliError
from camcli.images.archives import Member
from camcli.layout import CLUSTER
from camcli.output.root import Root
from camcli.records import escape_name
from camcli.source import Source


@dataclass(frozen=True)
class Sample:
    """A file of the inputs that every machine must see with the same size. ``size``: in bytes; None: no check."""

    path: str
    size: int | None


@dataclass(frozen=True)
class Plan:
    """What all workers of a run must know.

    ``config``: the options, with an absolute path as output. ``settings``: from ``run_settings``. ``folder``: the current folder of
    the program that started the run. ``mark``: the contents of the file CLUSTER in the output folder, "" without a common folder.
    ``images``: number of images to explain, for the decision whether to compile. ``sample``: a file that every node must see.
    """

    config: RunConfig
    settings: Mapping[str, Any]
    folder: str
    mark: str
    images: int
    sample: Sample
    version: str = __version__
    python: str = platform.python_version()


def sample_of(sources: Iterable[Source]) -> Sample:
    """The first of ``sources`` whose file exists; without a size if none exists, or if they are not files of this machine."""
    sample = Sample("", None)
    for source in sources:
        source = source.archive.source if isinstance(source, Member) else source
        stamp = source.stamp()
        sample = Sample(source.path, None if stamp is None else stamp.size)
        if sample.size is not None:
            break
    return sample


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
    if is_start and plan.sample.size is not None:
        image, stamp = escape_name(plan.sample.path), Source("", plan.sample.path).stamp()
        if stamp is None:
            return f"does not see the image {image!r}; the inputs must be on a file system of all nodes"
        if stamp.size != plan.sample.size:
            return f"sees another file at {image!r}: {stamp.size} bytes instead of {plan.sample.size}"
    if plan.mark and _mark_in(plan.config.output) != plan.mark:
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
