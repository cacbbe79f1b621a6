"""Python imports this by itself where its folder is on the path: it takes away what macOS or Windows do not have.

What is left out here because the standard library of a Linux needs it (`signal.SIGKILL` in subprocess, /proc in psutil)
is refused by reading the package's source (`tests/contracts/test_portable.py`).
"""

import io
import multiprocessing
import os
import pathlib
import select
import shutil
import signal
import sys
import warnings

import psutil  # noqa: F401  # on Linux it needs `resource`, elsewhere it does without

for module in ("fcntl", "resource", "pwd", "grp", "termios", "syslog"):
    sys.modules[module] = None
for name in (
    "sched_getaffinity sched_setaffinity getuid geteuid getloadavg fork forkpty killpg getpgid setsid mkfifo "
    "O_DIRECTORY O_NOFOLLOW statvfs fchmod fchown chown getpriority nice wait3 wait4 posix_fallocate"
).split():
    if name in dir(os):
        delattr(os, name)
for name in (
    "SIGUSR1 SIGUSR2 SIGHUP SIGALRM SIGPROF SIGQUIT SIGCHLD SIGPIPE setitimer getitimer ITIMER_PROF ITIMER_REAL alarm "
    "pause pthread_kill pthread_sigmask sigwait siginterrupt"
).split():
    if name in dir(signal):
        delattr(signal, name)
multiprocessing.set_start_method("spawn")
shutil._use_fd_functions = False
warnings.filterwarnings("error", category=EncodingWarning, module="tilth")


def _refused(what, error):
    def refuse(*args, **kwargs):
        raise error(what)

    return refuse


def _without_proc(method):
    def read(self, *args, **kwargs):
        if str(self).startswith(("/proc", "/sys")):
            raise FileNotFoundError(self)
        return method(self, *args, **kwargs)

    return read


def _open(path, flags, *args, _open=os.open, **kwargs):
    if isinstance(path, str | os.PathLike) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return _open(path, flags, *args, **kwargs)


def _rename(old, new, *args, _rename=os.rename, **kwargs):
    if os.path.exists(new):
        raise FileExistsError(17, "File exists", str(new))
    return _rename(old, new, *args, **kwargs)


os.open, os.rename = _open, _rename
os.symlink = _refused("a privilege is not held", OSError)
select.select = _refused("only sockets can be waited for", OSError)
for name in ("open", "read_text", "read_bytes", "write_text", "exists"):
    setattr(pathlib.Path, name, _without_proc(getattr(pathlib.Path, name)))
for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="cp1252")
