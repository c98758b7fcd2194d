"""A run within a memory limit that is a true one: by a control group, or by a watcher that does what the kernel does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.forks import workers_below

KINDS = ("control group", "watcher")
"""Where no control group can be made, the watcher stands in for it."""

_TOLD = """
import os
from pathlib import Path
import camcli.resources
if "FAKE_GROUP" in os.environ:
    camcli.resources._control_groups = lambda: iter([Path(os.environ["FAKE_GROUP"])])
if "NO_ADMISSION" in os.environ:
    from camcli.pipeline import memory
    memory._SHARE, memory._ENOUGH = 1e6, 1 << 50
    memory.Memory.has_room = lambda self, size, alone: True
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended. ``code``: negative for a signal. ``killed``: how many processes the watcher has killed."""

    code: int
    err: str
    killed: int = 0


def run_within(limit: int, kind: str, scratch: Path, *arguments: object, **environment: str) -> Ended:
    """The command ``camcli`` with ``arguments`` where all its processes together have ``limit`` bytes."""
    (scratch / "site").mkdir(exist_ok=True)
    (scratch / "site" / "sitecustomize.py").write_text(_TOLD)
    paths = f"{scratch / 'site'}{os.pathsep}{ROOT}"
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(_control_group(limit)) if kind == "control group" else None
        told = {} if group else {"FAKE_GROUP": str(_fake_group(scratch / "group", limit))}
        process = subprocess.Popen(
            ["sh", "-c", f"echo $$ > {group / 'cgroup.procs' if group else '/dev/null'}; exec \"$@\"", "sh",
             sys.executable, "-m", "camcli", *map(str, arguments)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": paths, **told, **environment}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        killed: list[int] = []
        if group is None:
            threading.Thread(target=_watch, args=(process, scratch / "group", limit, killed), daemon=True).start()
        _, err = process.communicate(timeout=240)
    return Ended(process.returncode, err, len(killed))


@contextlib.contextmanager
def _control_group(limit: int) -> Iterator[Path | None]:
    """A control group below this process's own, of either version; None where it may not be made."""
    folder = None
    for line in Path("/proc/self/cgroup").read_text().splitlines() if os.path.exists("/proc/self/cgroup") else []:
        _, controllers, place = line.split(":", 2)
        if controllers in ("", "memory"):
            made = Path("/sys/fs/cgroup") / controllers / place.lstrip("/") / f"camcli-test-{os.getpid()}"
            knob = "memory.limit_in_bytes" if controllers else "memory.max"
            with contextlib.suppress(OSError):
                made.mkdir()
                if (made / knob).exists():
                    (made / knob).write_text(str(limit))
                    folder = made
                    break
                made.rmdir()
    try:
        yield folder
    finally:
        if folder is not None:
            for _ in range(100):  # the last process may still be leaving
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.05)


def _fake_group(folder: Path, limit: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "memory.max").write_text(str(limit))
    (folder / "memory.current").write_text("0")
    return folder


def _watch(process: subprocess.Popen[str], folder: Path, limit: int, killed: list[int]) -> None:
    """Kill a process as soon as the command and its workers have more than ``limit`` bytes together, and say how many they have.

    ``killed`` receives their numbers. As the kernel does, kill the one that asks to be killed first and has most memory.
    """
    while process.poll() is None:
        used = {pid: memory for pid in (process.pid, *workers_below(process.pid)) if (memory := _memory(pid))}
        with contextlib.suppress(OSError):
            (folder / "next").write_text(str(sum(used.values())))
            os.replace(folder / "next", folder / "memory.current")
            if sum(used.values()) > limit:
                killed.append(max(used, key=lambda pid: (_score(pid), used[pid])))
                os.kill(killed[-1], signal.SIGKILL)
                time.sleep(0.05)  # until its memory is free
        time.sleep(0.005)


def _memory(pid: int) -> int:
    """Bytes of memory of a process that no other shares; 0 if there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("RssAnon:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0


def _score(pid: int) -> int:
    """How much a process asks to be killed when memory runs out."""
    try:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    except (OSError, ValueError):
        return 0
