"""Cores and memory that this process may use, according to its CPU affinity, control groups and limits."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """The number of cores that this process may use: its affinity mask, and the quota of its control groups, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota(folder) for folder in _control_groups()]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def available_memory() -> int:
    """Free memory for this process in bytes: the least that the machine, its control groups and its limits have left."""
    left = [_machine_memory(), *_own_limits()]
    for folder in _control_groups():
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            left.append(max(0, limit - used + _page_cache(folder)))
    return min(left)


def _own_limits() -> Iterator[int]:
    """Bytes left of the limits on address space and data (``ulimit -v`` and ``-d``), if there are any."""
    try:
        import resource

        words = Path("/proc/self/statm").read_text().split()
    except (ImportError, OSError):  # not available on every system
        return
    for kind, pages in ((resource.RLIMIT_AS, words[0]), (resource.RLIMIT_DATA, words[5])):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            yield max(0, limit - int(pages) * resource.getpagesize())


_OVERHEAD = 1 << 30
"""Address space beside the memory for images, in bytes: libraries, threads, and pieces that the C library keeps."""


@cache
def _first_address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def limit_memory(more: int) -> None:
    """Let allocations fail if this process takes ``more`` bytes beyond what it took at the first call, and an overhead.

    Without it a forged file could make the system kill other processes. Does nothing where the system has no such limit.
    """
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = _first_address_space() + more + _OVERHEAD
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    except (ImportError, OSError, ValueError):
        return


def allocations_can_fail() -> bool:
    """Whether allocations can fail; without a limit the kernel kills a process instead when memory runs out."""
    with contextlib.suppress(OSError):
        if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
            return True
    return any(True for _ in _own_limits())


def release_memory() -> None:
    """Return freed memory, which ``keep_memory`` holds back, to the system; does nothing if the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _page_cache(folder: Path) -> int:
    """Bytes of cached files that the kernel can free for a control group."""
    try:
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(lines.get("inactive_file", 0)) + int(lines.get("active_file", 0))


def _machine_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 << 30


def _control_groups() -> Iterator[Path]:
    """The folders of this process's control groups and their parents: version 2, and cpu and memory of version 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        kinds = [name for name in controllers.split(",") if name in ("cpu", "memory")] if controllers else [""]
        for kind in kinds:
            root = _CGROUPS / kind
            inside = (root / place.lstrip("/")).resolve()
            yield from (folder for folder in (inside, *inside.parents) if folder == root or root in folder.parents)


def _quota(folder: Path) -> float | None:
    """The CPU quota of a control group in cores; None if it is not limited."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _number(path: Path) -> int | None:
    """The whole number in a file; None if the file is missing or contains ``max``."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
"""Parameters of mallopt(3)."""

_SCARCE = 4 << 30
"""With less free memory than this, in bytes, all threads share one allocation arena. An arena per thread may keep 64 MiB each."""


def keep_memory() -> bool:
    """Make this process keep freed memory for the next batch. Returns whether that was possible; only glibc has the setting.

    By default the C library returns every large block to the system, and each new block costs one page fault per 4 KiB. That takes
    a third of the time of a network whose layers write tens of megabytes each.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library or operating system
        return False
    if available_memory() < _SCARCE:
        mallopt(_M_ARENA_MAX, 1)
    kept = mallopt(_M_MMAP_THRESHOLD, 1 << 30) or mallopt(_M_MMAP_MAX, 0)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def wait_without_spinning() -> None:
    """Let the threads of a network that is imported later sleep soon when they wait for one another, unless the user decides.

    The threads of GNU OpenMP otherwise run in a loop for milliseconds while they wait. That saves microseconds on an idle machine;
    where worker processes or other programs use the same cores, it takes the time that they need. A thousand rounds are 20 to 50
    microseconds.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
