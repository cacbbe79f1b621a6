"""What extractors share: limits, a process of their own, and formulas and code that no extractor may lose.

Pages come from strangers and extractors are large programs: each runs in a child process that is killed when a page
costs it more processor time than allowed, and started anew when a page crashes it. Only that page is refused; the time
counted is the child's own, so that a busy machine refuses no more than an idle one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from tilth.core.errors import DataError
from tilth.core.technique import dump
from tilth.data.read.reading import Unreadable

_STILL = 20.0
"""A child that neither answers nor works is given up after so many times the processor time it may use."""
_START_SECONDS = 120.0
_MEMORY_BYTES = 4 << 30
_LENGTHS = struct.Struct("<II")
_TIMED = "setitimer" in dir(signal)
"""Whether the system has a clock of processor time that ends a process; Windows has none, so real time counts there."""


class Extractor(Protocol):
    """A configuration of an extraction technique."""

    @property
    def max_chars(self) -> int:
        """Characters of HTML; a longer page is refused."""

    @property
    def max_depth(self) -> int:
        """Elements inside one another; a page nested deeper is refused."""

    @property
    def seconds(self) -> float:
        """Processor time that one page may take."""

    def worker(self) -> Callable[[str, str], str]:
        """The function (html, url) -> text, which runs in the child."""


class Sandboxed:
    """Extracts pages in a child process, which lasts from page to page."""

    command = ("-m", "tilth.data.extract.html")
    """What Python runs in the child, with the configuration behind it."""

    def __init__(self, config: Extractor) -> None:
        self._config = config
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def extract(self, html: str, url: str) -> str:
        """The text of a page, "" where there is none. Raises Unreadable for a page that is too large or nested too
        deeply, or on which the extractor takes too long or dies."""
        if len(html) > self._config.max_chars:
            raise Unreadable(f"a page longer than max_chars ({self._config.max_chars:,})")
        html = without_controls(html)
        child = self._start()
        page, address = html.encode("utf-8", "replace"), url.encode("utf-8", "replace")
        try:
            assert child.stdin is not None
            child.stdin.write(_LENGTHS.pack(len(page), len(address)) + page + address)
            child.stdin.flush()
            wait = max(60.0, _STILL * self._config.seconds) if _TIMED else self._config.seconds
            status, answer = self._answer(child, wait)
        except (EOFError, BrokenPipeError):
            code = child.wait()
            self.close()
            if _TIMED and code == -signal.SIGPROF:
                raise self._too_slow() from None
            raise Unreadable("the extractor dies of it", f"exit {code}") from None
        except TimeoutError:
            self.close()
            raise (Unreadable("the extractor stands still") if _TIMED else self._too_slow()) from None
        if status == _TOO_DEEP:
            raise Unreadable(f"elements nested deeper than max_depth ({self._config.max_depth:,})")
        if status:
            raise Unreadable("the extractor fails on it", answer[:80])
        return answer

    def _too_slow(self) -> Unreadable:
        return Unreadable(f"takes longer than seconds ({self._config.seconds:g})")

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._owner == os.getpid() and self._child.poll() is None:
            return self._child
        if self._owner == os.getpid():
            self.close()  # of another process: a copy made by fork, whose pipes are not ours to use
        command = [sys.executable, *self.command, json.dumps(dump(self._config))]
        path = os.pathsep.join(filter(None, sys.path))
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        self._owner = os.getpid()
        try:
            self._answer(self._child, _START_SECONDS)
        except (EOFError, TimeoutError):
            self.close()
            self._config.worker()  # says what is missing
            raise RuntimeError("the extractor's process does not start") from None
        return self._child

    def _answer(self, child: subprocess.Popen[bytes], seconds: float) -> tuple[int, str]:
        assert child.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(seconds, end)  # not every system can wait for a pipe with a time limit
        timer.daemon = True
        timer.start()
        try:
            status, length = _LENGTHS.unpack(_read(child.stdout, _LENGTHS.size))
            return status, _read(child.stdout, length).decode()
        except EOFError:
            if late.is_set():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def __del__(self) -> None:
        try:
            if self._owner == os.getpid():
                self.close()
        except Exception:  # the interpreter may be going, and parts of it gone
            pass

    def __getstate__(self) -> dict[str, Any]:
        return {"_config": self._config, "_child": None, "_owner": 0}


def imported(name: str) -> Any:
    """A module of an optional package. Raises DataError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise DataError(
            f"{name.partition('.')[0]} is needed to extract text from HTML and cannot be imported ({err}).",
            where="extract",
            fix='pip install "tilth[data]"',
        ) from None


def _read(stream: Any, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def serve(config: Extractor) -> None:
    """The child: pages come on standard input, texts go to standard output."""
    pages, texts = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    _limit("RLIMIT_CORE", 0)
    work = config.worker()
    _limit("RLIMIT_AS", _MEMORY_BYTES)
    if _TIMED:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
    texts.write(_LENGTHS.pack(0, 0))
    texts.flush()
    while head := pages.read(_LENGTHS.size):
        size, address = _LENGTHS.unpack(head)
        html, url = pages.read(size).decode(), pages.read(address).decode()
        if _TIMED:
            signal.setitimer(signal.ITIMER_PROF, config.seconds)
        try:
            deep = is_deeper(html, config.max_depth)
            status, answer = (_TOO_DEEP, "") if deep else (0, _CONTROLS.sub("", work(html, url)))
        except Exception as err:
            status, answer = 1, f"{type(err).__name__}: {err}"
        if _TIMED:
            signal.setitimer(signal.ITIMER_PROF, 0)
        out = answer.encode("utf-8", "replace")
        texts.write(_LENGTHS.pack(status, len(out)) + out)
        texts.flush()


def _limit(what: str, most: int) -> None:
    """Limit this process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError, ValueError):  # macOS does not limit address space
        resource.setrlimit(getattr(resource, what), (most, most))


_TOO_DEEP = 2
"""What the child answers for a page nested too deeply; 1 is an error of the extractor."""
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\ufffe\uffff]")
_REFERENCE = re.compile("&#(?:x0*([0-9a-f]{1,2})|0*([0-9]{1,2}))(?![0-9a-z]);?", re.IGNORECASE)


def without_controls(html: str) -> str:
    """A page without characters, written out or as references, that text does not have and XML's trees refuse."""
    if "&#" in html:
        html = _REFERENCE.sub(_resolved, html)
    return _CONTROLS.sub("", html).replace("\f", " ")


def _resolved(found: re.Match[str]) -> str:
    code = int(found[1], 16) if found[1] else int(found[2])
    return "" if _CONTROLS.match(chr(code)) else " " if code == 12 else found[0]


def is_deeper(html: str, most: int) -> bool:
    """Whether elements below the body stand inside one another more than `most` deep, as an HTML parser sees it."""
    if html.count("<") <= most:
        return False
    tree = imported("resiliparse.parse.html").HTMLTree.parse(html)
    chain = " > ".join(["*"] * (most + 3))  # html, body, and one element more than may be
    return tree.document.query_selector(chain) is not None


# ---- the two libraries -------------------------------------------------------------------------------------------


def trafilatura(
    favour: str, tables: bool = True, comments: bool = False, fast: bool = False
) -> Callable[[Any, str], str]:
    """trafilatura as a function (lxml tree, url) -> text; without its deduplication, which remembers other pages."""
    library = imported("trafilatura")
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)

    def extract(tree: Any, url: str) -> str:
        text = library.extract(
            tree,
            url=url or None,
            fast=fast,
            favor_precision=favour == "precision",
            favor_recall=favour == "recall",
            include_comments=comments,
            include_tables=tables,
            deduplicate=False,
        )
        return text or ""

    return extract


def resiliparse(main_content: bool = True, alt_texts: bool = False, list_bullets: bool = False) -> Callable[[str], str]:
    """Resiliparse as a function html -> text."""
    library = imported("resiliparse.extract.html2text")
    return lambda html: library.extract_plain_text(
        html, main_content=main_content, alt_texts=alt_texts, list_bullets=list_bullets
    )


# ---- formulas and code -------------------------------------------------------------------------------------------

_FORMULA = re.compile(r"<math\b|math/tex|\btex\b|mwe-math|katex|MathJax", re.IGNORECASE)
_STYLE = re.compile(r"^\{\\(?:display|text)style\s*(.*)\}$", re.DOTALL)
_GAP = "\u2424"
"""A sign for a new line, alone on the empty lines of code, which extractors would drop."""


def has_formulas(html: str) -> bool:
    """Whether a page may hold formulas as elements or pictures."""
    return _FORMULA.search(html) is not None


def keep_formulas(tree: Any) -> None:
    """Put formulas into an lxml tree as text between dollar signs: TeX where the page has it (annotations of MathML,
    MathJax scripts, alternative texts of pictures), else what MathML shows."""
    for node in list(tree.iter("script", "math", "img", "span")):
        name, classes = node.tag, node.get("class") or ""
        tex = None
        if name == "script" and (node.get("type") or "").startswith("math/tex"):
            tex = node.text_content()
            display = "mode=display" in (node.get("type") or "")
        elif name == "math":
            found = [a for a in node.iter("annotation") if "tex" in (a.get("encoding") or "").lower()]
            tex = found[0].text_content() if found else node.get("alttext") or _linear(node)
            display = node.get("display") == "block"
        elif name == "img" and ("mwe-math" in classes or "tex" in classes.split() or "latex" in classes.split()):
            display = "display" in classes
            before = node.getparent()
            if before is not None and "$" in "".join(before.itertext()) and "mwe-math" in classes:
                _replace(node, "")  # the picture beside a formula that was just written out
                continue
            tex = node.get("alt")
        elif name == "span" and ("katex-html" in classes or "MathJax" in classes.split()):
            if node.get("aria-hidden") == "true" or "MathJax_Preview" in classes:
                _replace(node, "")  # the same formula, drawn letter by letter
            continue
        if tex is not None and (tex := " ".join(tex.split())):
            tex = (style[1] if (style := _STYLE.match(tex)) else tex).strip()
            _replace(node, f"$${tex}$$" if display else f"${tex}$")


def _linear(node: Any) -> str:
    """Presentation MathML on one line: what stands above, below and over is said with ^, _ and /."""
    name = node.tag if isinstance(node.tag, str) else ""
    parts = [_linear(child) for child in node if isinstance(child.tag, str) and child.tag != "annotation"]
    if not parts:
        return " ".join((node.text or "").split())
    forms = {"msup": "{}^{{{}}}", "msub": "{}_{{{}}}", "mfrac": "\\frac{{{}}}{{{}}}", "msubsup": "{}_{{{}}}^{{{}}}"}
    if name in forms and len(parts) == forms[name].count("{}"):
        return forms[name].format(*parts)
    if name == "msqrt":
        return f"\\sqrt{{{' '.join(parts)}}}"
    return " ".join(filter(None, parts))


def _replace(node: Any, text: str) -> None:
    """Put text in an element's place."""
    parent = node.getparent()
    if parent is None:
        return
    text += node.tail or ""
    before = node.getprevious()
    if before is not None:
        before.tail = (before.tail or "") + text
    else:
        parent.text = (parent.text or "") + text
    parent.remove(node)


def mark_gaps(tree: Any) -> None:
    """Mark the empty lines of code in an lxml tree, see `unmark_gaps`."""
    for pre in tree.iter("pre"):
        for node in pre.iter():
            if node.text:
                node.text = _BLANK.sub(f"\n{_GAP}", node.text)
            if node is not pre and node.tail:
                node.tail = _BLANK.sub(f"\n{_GAP}", node.tail)


_BLANK = re.compile(r"\n[ \t]*(?=\r?\n)")
_MARKED = re.compile(f"^[ \t]*{_GAP}[ \t]*$", re.MULTILINE)


def unmark_gaps(text: str) -> str:
    """The empty lines of code as they were."""
    return _MARKED.sub("", text) if _GAP in text else text


def parse(html: str) -> Any:
    """The page as an lxml tree without comments; None where there is nothing."""
    from lxml import etree
    from lxml.html import HTMLParser, document_fromstring

    try:
        parser = HTMLParser(remove_comments=True, remove_pis=True, encoding="utf-8", collect_ids=False)
        return document_fromstring(html.encode("utf-8", "replace"), parser=parser)
    except (etree.ParserError, ValueError):
        return None


def to_html(tree: Any) -> str:
    """An lxml tree as HTML."""
    from lxml.etree import tostring

    return tostring(tree, encoding="unicode", method="html")


if __name__ == "__main__":
    from tilth.core.technique import resolve

    serve(resolve("extract", json.loads(sys.argv[1])))
