"""One interpreter that has imported tilth, and a fork of it for each command: pages hold dozens, and to import takes
seconds.

    python warm.py serve SOCKET              answer calls until the socket's file is gone
    python -IS warm.py call SOCKET ARG…      run `python ARG…` there, here: same files, folder, environment, exit code

A call sends its arguments, folder and environment, and its standard input, output and error themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any


class Warm:
    """The interpreter, started in a folder; `command` is what runs `python` in it."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        path = folder / "warm"
        self.command = [sys.executable, "-IS", __file__, "call", str(path)]
        self._server = subprocess.Popen([sys.executable, __file__, "serve", str(path)], cwd=folder, env=environment)
        while not path.exists():
            assert self._server.poll() is None
            time.sleep(0.02)

    def tilth(self, *args: Any, **how: Any) -> subprocess.CompletedProcess[str]:
        """`tilth ARG…` to its end; `how`: for `subprocess.run`."""
        command = [*self.command, "-m", "tilth", *map(str, args)]
        return subprocess.run(command, **{"capture_output": True, "text": True, "check": False, **how})

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.kill()
        self._server.wait()


def call(path: str, arguments: list[str]) -> int:
    asked = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        socket.send_fds(line, [len(asked).to_bytes(4, "big")], [0, 1, 2])
        line.sendall(asked)
        return int(line.recv(8) or b"1")


def serve(path: str) -> None:
    import torch._dynamo  # noqa: F401

    import tilth.cli
    import tilth.cli_data
    import tilth.job
    import tilth.lab.compare
    import tilth.lab.page  # noqa: F401

    with contextlib.suppress(ImportError):  # what exports are compared with
        from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.settimeout(0.5)
        while os.path.exists(path):
            try:
                line, _ = listening.accept()
            except TimeoutError:
                with contextlib.suppress(ChildProcessError):
                    while os.waitpid(-1, os.WNOHANG)[0]:
                        pass
                continue
            if not os.fork():
                answer(line)


def answer(line: socket.socket) -> None:
    """In a fork of the interpreter: wait for a fork of its own that does what was asked."""
    size, streams, *_ = socket.recv_fds(line, 4, 3)
    asked = b""
    while len(asked) < int.from_bytes(size, "big"):
        asked += line.recv(1 << 16)
    arguments, folder, environment = json.loads(asked)
    if not (child := os.fork()):
        line.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.stdin, sys.stdout, sys.stderr = (open(n, mode, closefd=False) for n, mode in enumerate("rww"))  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        os._exit(do(arguments))
    line.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    os._exit(0)


def do(arguments: list[str]) -> int:
    """As `python` does: `-m tilth …`, `- …`, `-c TEXT …` or `FILE …`; the exit code."""
    import runpy

    try:
        if arguments[:1] == ["-m"]:
            sys.argv = arguments[1:]
            sys.path.insert(0, os.getcwd())
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[:1] in (["-"], ["-c"]):
            text = sys.stdin.read() if arguments[0] == "-" else arguments.pop(1)
            sys.argv = arguments
            sys.path.insert(0, "")
            exec(compile(text, "<text>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            sys.path.insert(0, os.path.dirname(arguments[0]))
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(call(sys.argv[2], sys.argv[3:]))
