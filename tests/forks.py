"""Runs in other processes, to be killed: fresh ones, and children of a process that has imported everything once."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parent.parent


class Run(Protocol):
    """A run in another process."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""

    def wait(self, timeout: float) -> int:
        """The exit code, when the run has ended."""

    def send_signal(self, number: int) -> None:
        """Send a signal."""


def fresh(arguments: list[Any], log: Path, *, before: tuple[str, ...] = (), **environment: str) -> Run:
    """A run in a fresh process, both streams into ``log``. ``before``: a command in front of it."""
    with open(log, "wb") as file:
        return subprocess.Popen(
            [*before, sys.executable, "-m", "camcli", *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT, env={**os.environ, **environment},
        )  # fmt: skip


class Forks:
    """A process that has imported everything and forks one child a run: 0.3 s instead of 3 s. A context manager."""

    def __enter__(self) -> Forks:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)

    def start(self, arguments: list[Any], log: Path, **environment: str) -> Run:
        """A run in a child, in a session of its own, both streams into ``log``; one at a time."""
        order = {"arguments": list(map(str, arguments)), "log": str(log), "environment": environment}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        return _Fork(self._server)


class _Fork:
    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdout is not None
        self._answers = server.stdout
        self.pid = int(self._answers.readline())
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._answer(0)

    def wait(self, timeout: float) -> int:
        code = self._answer(timeout)
        if code is None:
            raise TimeoutError(f"the run goes on after {timeout} s")
        return code

    def _answer(self, timeout: float) -> int | None:
        if self._code is None and select.select([self._answers], [], [], timeout)[0]:
            self._code = int(self._answers.readline())
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _serve() -> None:
    """Answer every line of stdin, an order, with the pid of its child and then the child's exit code."""
    import torchvision  # noqa: F401 - imported here once and not in every child; nothing is computed before the fork

    import camcli.cli.app
    import camcli.images.discover
    import camcli.output.folder
    import camcli.pipeline.job
    import camcli.pipeline.stages

    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
            _run(camcli.cli.app.main)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(order: dict[str, Any]) -> None:
    os.setsid()
    os.environ.update(order["environment"])
    nowhere, log = os.open(os.devnull, os.O_RDONLY), os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, source in enumerate((nowhere, log, log)):
        os.dup2(source, number)
    os.close(nowhere)
    os.close(log)
    sys.argv[1:] = order["arguments"]


def _run(main: Callable[[list[str]], None]) -> None:
    """Run to the end of the interpreter, or with FORKS_HASTY only to that of the run: PyTorch takes a second to be torn down."""
    try:
        main(sys.argv[1:])
    except SystemExit as ended:
        if "FORKS_HASTY" not in os.environ:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(ended.code or 0))


def listens(run: Run) -> bool:
    """Whether the run has installed its signal handlers, or has ended."""
    try:
        status = Path(f"/proc/{run.pid}/status").read_text()
    except OSError:
        return True
    caught = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")), -1)
    return run.poll() is not None or bool(caught >> (signal.SIGTERM - 1) & 1)


def wait_for(condition: Callable[[], bool], timeout: float = 60) -> bool:
    """Whether ``condition`` has come true within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def written(out: Path) -> tuple[int, ...]:
    """Bytes and inodes of the two tables: they change when a run has begun to write."""
    found: list[int] = []
    for name in ("predictions.csv", "failures.csv"):
        with contextlib.suppress(OSError):
            status = (out / name).stat()
            found += [status.st_size, status.st_ino]
    return tuple(found)


def rows_written(out: Path) -> int:
    """How many lines the two tables hold below their headers."""
    lines = 0
    for name in ("predictions.csv", "failures.csv"):
        with contextlib.suppress(OSError):
            lines += max(0, (out / name).read_bytes().count(b"\n") - 1)
    return lines


if __name__ == "__main__":
    _serve()
