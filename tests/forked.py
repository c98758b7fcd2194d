"""``camcli`` for shell scripts in tests: ``forked.py SOCKET ARGUMENTS`` runs the command in a child of the server at that socket.

The child has this process's streams, folder and environment; signals are passed on, and this process ends as the child does. It
imports little: a start costs 20 ms, where the command itself needs three seconds to import PyTorch.
"""

import json
import os
import signal
import sys

OPEN = []
for number in range(3):
    try:
        os.fstat(number)
    except OSError:
        continue
    OPEN.append(number)

import socket  # noqa: E402 - opens nothing, but what it is given may take the number of a closed stream


def main(place: str, arguments: list[str]) -> None:
    """Order the run, wait, and end as it does."""
    order = {
        "arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ), "prelude": "", "streams": OPEN,
    }  # fmt: skip
    data = json.dumps(order).encode()
    answers = socket.socket(socket.AF_UNIX)
    answers.connect(place)
    socket.send_fds(answers, [len(data).to_bytes(8, "big")], OPEN)
    answers.sendall(data)
    lines = answers.makefile("rb", buffering=0)
    child = int(lines.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    code = int(lines.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    os._exit(code)


main(sys.argv[1], sys.argv[2:])
