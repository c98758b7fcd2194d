"""Runs of the command in processes of their own: fresh ones, and children of a server that has imported everything once.

A fresh process needs three seconds to import PyTorch, a child 0.2. Both run ``camcli.__main__.main``: they differ in nothing else.
``forked`` starts a child from Python, ``COMMAND_IN_SHELL`` from a shell script. Fresh are those whose start itself is tested.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import json
import os
import pkgutil
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

ROOT = Path(__file__).parent.parent
CLIENT = Path(__file__).with_name("forked.py")


class Run(Protocol):
    """A run in another process, as ``subprocess.Popen`` is one."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when the run has ended."""

    def send_signal(self, number: int) -> None:
        """Send a signal."""


def fresh(arguments: list[Any], log: Path, **environment: str) -> Run:
    """A run in a fresh process, both streams into ``log``."""
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "camcli", *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT, env={**os.environ, **environment},
        )  # fmt: skip


class Forks:
    """A server that has imported everything and forks one child a run. A context manager."""

    def __enter__(self) -> Forks:
        self._folder = tempfile.mkdtemp(prefix="forks-")
        self.place = os.path.join(self._folder, "socket")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", self.place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(60)
        shutil.rmtree(self._folder)

    def start(self, arguments: Iterable[object], log: Path, *, prelude: str = "", **environment: str) -> Forked:
        """A run that reads nothing, both streams into ``log``. ``prelude``: Python that the child runs before the command."""
        with open(os.devnull, "rb") as nothing, open(log, "wb") as file:
            streams = [nothing.fileno(), file.fileno(), file.fileno()]
            return self.run(arguments, streams, prelude=prelude, env={**os.environ, **environment})

    def run(
        self, arguments: Iterable[object], streams: list[int], *, prelude: str = "",
        cwd: Path = ROOT, env: Mapping[str, str] | None = None,
    ) -> Forked:  # fmt: skip
        """A run with these three descriptors as its streams."""
        order = {
            "arguments": [os.fsdecode(os.fsencode(str(argument))) for argument in arguments],
            "cwd": str(cwd),
            "environment": dict(os.environ if env is None else env),
            "prelude": prelude,
            "streams": [0, 1, 2],
        }
        return Forked(self.place, order, streams)


class Forked:
    """A run in a child of the server, in a session of its own."""

    def __init__(self, place: str, order: dict[str, Any], streams: list[int]) -> None:
        data = json.dumps(order).encode()
        self._answers = socket.socket(socket.AF_UNIX)
        self._answers.connect(place)
        socket.send_fds(self._answers, [len(data).to_bytes(8, "big")], streams)
        self._answers.sendall(data)
        self._lines = self._answers.makefile("rb", buffering=0)
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None

    def poll(self) -> int | None:
        return self._answer(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._answer(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("camcli", timeout or 0)
        return code

    def _answer(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], timeout)[0]:
            self.returncode = int(self._lines.readline())
            self._lines.close()
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that is still to come on stdout and stderr, and the end of the run."""
        streams = {name: stream for name in ("stdout", "stderr") if (stream := getattr(self, name)) is not None}
        found, deadline = dict.fromkeys(("stdout", "stderr"), b""), None if timeout is None else time.monotonic() + timeout
        open_ones = {stream.fileno(): name for name, stream in streams.items()}
        while open_ones:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = select.select(list(open_ones), [], [], left)[0]
            if not ready:
                raise subprocess.TimeoutExpired("camcli", timeout or 0)
            for number in ready:
                data = os.read(number, 1 << 16)
                found[open_ones[number]] += data
                if not data:
                    del open_ones[number]
        for stream in streams.values():
            stream.close()
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return found["stdout"].decode("utf-8"), found["stderr"].decode("utf-8")


@functools.cache
def shared() -> Forks:
    """The server of this process; it ends with it."""
    server = Forks()
    atexit.register(server.__exit__)
    return server.__enter__()


def forked(*arguments: object, stdin: int | None = None, **options: Any) -> Forked:
    """A run of ``camcli`` whose ``stdout`` and ``stderr`` can be read, as ``subprocess.Popen`` gives one."""
    pipes = [os.pipe(), os.pipe()]
    with open(os.devnull, "rb") as nothing:
        run = shared().run(arguments, [nothing.fileno() if stdin is None else stdin, *(end for _, end in pipes)], **options)
    for _, end in pipes:
        os.close(end)
    run.stdout, run.stderr = (open(start, encoding="utf-8", buffering=1) for start, _ in pipes)  # noqa: SIM115 - closed by communicate
    return run


def completed(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The end of a run of ``camcli``, with what it said."""
    run = forked(*arguments, **options)
    out, err = run.communicate(timeout=300)
    assert run.returncode is not None
    return subprocess.CompletedProcess(["camcli", *map(str, arguments)], run.returncode, out, err)


def command_in_shell() -> str:
    """What stands for ``camcli`` in a shell script: its streams, folder, environment and end are those of a child of the server."""
    return shlex.join([sys.executable, "-I", "-S", str(CLIENT), shared().place])


def _serve(place: str) -> None:
    """Give each connection a process that forks the run and says its pid, then its exit code. Ends when stdin does."""
    _import_everything()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen(64)
        print("ready", flush=True)
        answering: set[int] = set()
        while 0 not in select.select([listener, 0], [], [])[0]:
            connection, _ = listener.accept()
            child = os.fork()
            if child == 0:
                listener.close()
                _answer(connection)
            answering.add(child)
            connection.close()
            answering -= {child for child in answering if os.waitpid(child, os.WNOHANG)[0]}
        for child in answering:  # the tests have ended, or were killed: so are the runs that they left
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def use_no_processes() -> None:
    """Let runs in this process, and in those that it forks, do without workers unless ``--workers`` or TEST_WORKERS asks for them.

    A worker takes a third of a second to start, which is longer than most runs of the tests. Fresh processes have their workers.
    """
    from camcli.pipeline import pool

    pool.available_cores = lambda: int(os.environ.get("TEST_WORKERS", "0"))


def _import_everything() -> None:
    """Import here, once, what every child would import. Nothing is computed: a pool of threads does not outlive a fork."""
    import torchvision  # noqa: F401

    import camcli.errors
    import tests.networks  # noqa: F401
    from camcli.cli.app import app

    for module in pkgutil.walk_packages(camcli.__path__, "camcli."):
        importlib.import_module(module.name)
    use_no_processes()
    with contextlib.suppress(camcli.errors.CamcliError):  # a command is parsed
        app(["run", "/nonexistent/images"], standalone_mode=False)


def _answer(connection: socket.socket) -> None:
    """Fork the run that ``connection`` orders; in this process never return."""
    _end_with_parent()
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    data = b""
    while len(data) < int.from_bytes(length, "big"):
        data += connection.recv(1 << 20)
    child = os.fork()
    if child == 0:
        _end_with_parent()
        connection.close()
        _become(json.loads(data), streams)
        code = 1
        try:
            from camcli.__main__ import main

            main()
        except SystemExit as ended:  # after compiling: the processes that did it have to be told
            atexit._run_exitfuncs()
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for number in streams:
        os.close(number)
    with contextlib.suppress(OSError):  # nobody waits for it any more
        connection.sendall(b"%d\n" % child)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.sendall(b"%d\n" % code)
    os._exit(0)


def _end_with_parent() -> None:
    """Kill this process when the one that has forked it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _become(order: dict[str, Any], streams: list[int]) -> None:
    """Make of this process what a fresh interpreter would be that was started like that."""
    os.setsid()
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    for number in range(3):
        if number in order["streams"]:
            os.dup2(streams[order["streams"].index(number)], number)
        else:
            os.close(number)
    for number in streams:
        os.close(number)
    told = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [order["cwd"], *filter(None, told), *(place for place in sys.path[1:] if place not in told)]
    sys.argv[:] = [str(ROOT / "camcli" / "__main__.py"), *order["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the tests
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = None
        if number in order["streams"]:
            errors = "backslashreplace" if name == "stderr" else "strict"
            lines = name == "stderr" or (mode == "w" and os.isatty(number))
            stream = open(number, mode, encoding="utf-8", errors=errors, buffering=1 if lines else -1, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    exec(order["prelude"], {})


ORDINARY_USER = "from tests.forks import give_up_rights; give_up_rights()"
"""A prelude: from there on permissions bind root too, as they bind everybody else."""


def give_up_rights() -> None:
    """Take root's rights over the files of all from this process, and from those that it starts."""
    if os.geteuid() != 0:
        return
    libc, right = ctypes.CDLL(None, use_errno=True), 0
    while libc.prctl(23, right, 0, 0, 0) >= 0:  # PR_CAPBSET_READ: there is such a right
        libc.prctl(24, right, 0, 0, 0)  # PR_CAPBSET_DROP: programs that are started do not get it
        right += 1
    version, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(version, none) != 0:
        os._exit(RIGHTS_KEPT)


RIGHTS_KEPT = 77
"""Exit code where root may not give up its rights."""


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


def workers_below(pid: int) -> list[int]:
    """The worker processes that the process ``pid`` has started."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid and b"camcli.pipeline.worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


def lives(pid: int) -> bool:
    """Whether a worker is still there; a zombie, which only its parent can remove, is not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return status not in "ZX" and b"camcli.pipeline.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def survivors(workers: list[int], seconds: float = 2.0) -> list[int]:
    """Those of ``workers`` that are still there after so many seconds."""
    wait_for(lambda: not any(map(lives, workers)), seconds)
    return [pid for pid in workers if lives(pid)]


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
    _serve(sys.argv[1])
