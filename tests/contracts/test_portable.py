"""What holds for every line of the package so that it runs where Linux does not."""

from __future__ import annotations

import ast
from pathlib import Path

import tilth

ROOT = Path(tilth.__file__).parent
UNIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix"}


def _calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _opens_text(call: ast.Call) -> bool:
    """Whether a call opens, reads or writes text, as far as its name and its arguments tell."""
    name, words = _name(call), {k.arg: k.value for k in call.keywords}
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute)
    if (
        name in ("run", "Popen", "check_output")
        and isinstance(asked := words.get("text"), ast.Constant)
        and asked.value is True
    ):
        return True
    if name not in ("open", "fdopen", "NamedTemporaryFile"):
        return False
    given = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    given += [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
    modes = [g for g in given if set(g) <= set("rwxabt+") and 0 < len(g) <= 3]
    on_path = isinstance(call.func, ast.Attribute) and not (
        isinstance(call.func.value, ast.Name) and call.func.value.id in ("os", "zipfile", "tarfile", "Image", "gzip")
    )
    return any("b" not in mode for mode in modes) or (on_path and name == "open" and not call.args and not words)


def test_text_has_an_encoding() -> None:
    silent = []
    for path in sorted(ROOT.rglob("*.py")):
        for call in _calls(ast.parse(path.read_text(encoding="utf-8"))):
            if _opens_text(call) and "encoding" not in {k.arg for k in call.keywords}:
                silent.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert silent == []


def test_no_module_needs_unix_to_be_imported() -> None:
    needs = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            needs += [f"{path.relative_to(ROOT)}: {name}" for name in names if name in UNIX_MODULES]
    assert needs == []


UNIX_ONLY = {
    "os": "sched_getaffinity uname getuid geteuid getloadavg fork killpg getpgid setsid O_DIRECTORY O_NOFOLLOW statvfs "
    "fchmod fchown chown nice wait3 wait4 posix_fallocate mkfifo",
    "signal": "SIGKILL SIGUSR1 SIGUSR2 SIGHUP SIGALRM SIGPROF SIGQUIT SIGCHLD SIGPIPE setitimer ITIMER_PROF "
    "ITIMER_REAL alarm pause pthread_kill pthread_sigmask sigwait",
    "select": "select poll epoll",
}
ALLOWED = {
    "core/machine.py": {"os.sched_getaffinity"},  # asked first, and elsewhere otherwise
    "data/engine/workers.py": {"signal.SIGKILL"},  # with prctl, which only Linux has
    "data/extract/html.py": {"signal.SIGPROF", "signal.setitimer", "signal.ITIMER_PROF"},  # where the system has them
    "lab/runs.py": {"os.killpg", "signal.SIGKILL"},  # of the nursery
    "lab/worker.py": {"os.fork", "select.select"},  # the nursery, on Linux alone
}


def test_what_only_unix_has_is_used_where_its_lack_is_dealt_with() -> None:
    used: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = node.value.id
                if node.attr in UNIX_ONLY.get(module, "").split():
                    used.setdefault(path.relative_to(ROOT).as_posix(), set()).add(f"{module}.{node.attr}")
    assert used == ALLOWED
