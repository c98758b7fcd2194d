"""What this process may use of the machine: cores and memory, by its affinity and its control group."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """How many cores this process may keep busy: its affinity mask, and the quota of its control groups, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [_quota(folder) for folder in _control_groups()]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def available_memory() -> int:
    """Bytes of memory that this process may still take: what the machine, its control groups and its own limits have left."""
    left = [_machine_memory(), *_own_limits()]
    for folder in _control_groups():
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            left.append(max(0, limit - used + _page_cache(folder)))
    return min(left)


def _own_limits() -> Iterator[int]:
    """What is left of the address space and the data that this process may have, as ``ulimit -v`` and ``-d`` bound them."""
    try:
        import resource

        words = Path("/proc/self/statm").read_text().split()
    except (ImportError, OSError):  # not on every system
        return
    for kind, pages in ((resource.RLIMIT_AS, words[0]), (resource.RLIMIT_DATA, words[5])):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            yield max(0, limit - int(pages) * resource.getpagesize())


def allocations_can_fail() -> bool:
    """Whether a limit makes allocations fail, where otherwise a process is killed when memory runs out."""
    with contextlib.suppress(OSError):
        if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
            return True
    return any(True for _ in _own_limits())


def release_memory() -> None:
    """Give memory that was freed back to the system, which ``keep_memory`` keeps from happening; where the C library can."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _page_cache(folder: Path) -> int:
    """Bytes of files that the kernel keeps in memory for a control group and gives back when asked."""
    try:
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(lines.get("inactive_file", 0))


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
    """The folders of this process's control groups and all above them, of version 2 and of 1's cpu and memory."""
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
    """Cores' worth of time that a control group has; None where it is not limited."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _number(path: Path) -> int | None:
    """The whole number in a file; None where there is none, or the word ``max``."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
"""Parameters of mallopt(3)."""

_SCARCE = 4 << 30
"""Bytes of free memory below which all threads share one place to allocate from: one of a thread's own may keep 64 MiB for ever."""


def keep_memory() -> bool:
    """Let this process keep the memory that it frees, for the next batch; whether that could be arranged.

    The C library gives every large block back to the system at once, and the next one costs a page fault for each of its 4 KiB:
    a third of the time of a network whose layers write tens of megabytes each. Only glibc has the switch.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, another system
        return False
    if available_memory() < _SCARCE:
        mallopt(_M_ARENA_MAX, 1)
    kept = mallopt(_M_MMAP_THRESHOLD, 1 << 30) or mallopt(_M_MMAP_MAX, 0)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
