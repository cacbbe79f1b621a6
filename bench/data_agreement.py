"""How often tilth's Gopher, C4 and FineWeb filters and DataTrove's decide alike, and why where they do not.

    python -m venv .venv-data-peers && .venv-data-peers/bin/pip install -r bench/data_peers.txt
    python bench/data_agreement.py [--python .venv-data-peers/bin/python] [--out evidence/bench/data_agreement.json]

Both judge every document of the shared corpora by itself (the web pages by the text of their reference extraction), and
texts made of pieces that tokenizers and line rules stumble over. Kept or dropped, the reason, C4's text and the
tokens of each document are compared; and the tokens of each distinct chunk of the corpora.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CORPORA = ROOT.parent / "shared" / "data"
FILTERS = ("gopher_quality", "gopher_repetition", "c4", "c4_fineweb", "fineweb")
"""`c4_fineweb` is c4 as FineWeb sets it: lines need no terminal punctuation."""


def digest(parts: list[str]) -> str:
    """The same for equal lists of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


# ---- DataTrove, in the peers' Python (which knows no tilth) --------------------------------------------------------


def peer(source: Path, target: Path, seconds: float) -> None:
    """One line of `target` per line of `source` ({"text"} or {"chunks"}): verdicts, or tokens of each chunk. Ends early
    when it is out of time."""
    from datatrove.data import Document  # type: ignore[import-not-found]
    from datatrove.pipeline import filters  # type: ignore[import-not-found]
    from datatrove.utils.text import split_into_words  # type: ignore[import-not-found]
    from datatrove.utils.word_tokenizers import load_word_tokenizer  # type: ignore[import-not-found]

    built = {
        "gopher_quality": filters.GopherQualityFilter(),
        "gopher_repetition": filters.GopherRepetitionFilter(),
        "c4": filters.C4QualityFilter(),
        "c4_fineweb": filters.C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb": filters.FineWebQualityFilter(),
    }
    begin = time.monotonic()
    with source.open() as lines, target.open("w") as out:
        for line in lines:
            if time.monotonic() - begin > seconds:
                break
            row = json.loads(line)
            if "chunks" in row:
                tokenize = load_word_tokenizer("en").tokenizer.tokenizer
                answer: dict[str, Any] = {"chunks": [[t.text for t in tokenize(c)] for c in row["chunks"]]}
            else:
                text = row["text"]
                answer = {"tokens": digest(split_into_words(text))}
                for name, rule in built.items():
                    document = Document(text=text, id="")
                    try:
                        verdict = rule.filter(document)
                    except (ZeroDivisionError, AssertionError) as error:
                        verdict = (False, f"! {type(error).__name__}")
                    answer[name] = "" if verdict is True else verdict[1]
                    if name.startswith("c4") and verdict is True:
                        answer[f"{name}_text"] = digest([document.text])
            out.write(json.dumps(answer) + "\n")
            out.flush()


# ---- tilth, and the comparison -------------------------------------------------------------------------------------

PIECES = [
    *"aZ09.,'_-(){}[]#\n\r\t\x0b\x0c\x1c\x1f\x85\xa0ſéß²½ªºЖω—…•\u2028東京\u0301𝄞🙂İK٣。！$%+:;/@",
    *("\n", "\n\n", "\r\n", " ", " ", " ", " ", " ", "  "),
    *("the ", "and ", "to be ", "of ", "don't", "I’m", "Mr.", ":)", "...", "....", "http://x.com/a", "a@b.co.uk"),
    *("1.2.3.4", "10km", "5%", "US$", "lorem ipsum", "javascript", "cookie policy", "cooKies", "use cookies", "[1]"),
    *(
        "[edit]",
        "[citation needed]",
        "Hello world foo.",
        "A sentence stands here.",
        "x-y",
        "--",
        "i.e.",
        "U.S.",
        "(a.m.)",
    ),
    *("The same line, again and again.\n", "- bullet", "• b", "foo'", "العربية ", "नमस्ते ", "東京都に住む。"),
]


def made(count: int) -> Iterator[str]:
    """Texts of pieces and sentences, near the limits of the filters."""
    rng = random.Random(0)
    prose = "It was the best of times and that is what people have said to be true with some reason .".split()
    for _ in range(count):
        strange = rng.choice([0.02, 0.1, 0.5])
        words = rng.choice([5, 60, 120, 200])
        parts = [rng.choice(PIECES) if rng.random() < strange else rng.choice(prose) + " " for _ in range(words)]
        yield "".join(parts)


def corpora() -> Iterator[tuple[str, list[str]]]:
    """Name -> texts."""
    import pyarrow as pa

    for path in sorted(CORPORA.glob("*.jsonl.zst")):
        with pa.input_stream(str(path), compression="zstd") as stream:
            rows = [json.loads(line) for line in stream.read().decode().split("\n") if line]
        texts = [r["text"] for r in rows if isinstance(r.get("text"), str)]
        if texts:
            yield path.name.removesuffix(".jsonl.zst"), texts
    yield "made", ["", " ", "\n", *made(3000)]


def verdicts(texts: list[str]) -> list[dict[str, str]]:
    """What tilth says of each text, in the form of `peer`."""
    from tilth.core.technique import resolve
    from tilth.data.document import Document, batches
    from tilth.data.engine.steps import Signals, judge
    from tilth.data.native import text as native

    steps = {name: resolve("curate", name.removesuffix("_fineweb")).build() for name in FILTERS}
    steps["c4_fineweb"] = resolve("curate", {"use": "c4", "terminal": False}).build()
    out = []
    for batch in batches(Document(str(i), text, "", "") for i, text in enumerate(texts)):
        signals = Signals(batch, {})
        rows = [{"tokens": digest(native.native_tokens(text))} for text in batch.column("text").to_pylist()]
        for name, step in steps.items():
            verdict = judge(step, signals)
            for i, row in enumerate(rows):
                row[name] = verdict.reason[i]
                if name.startswith("c4") and not verdict.reason[i]:
                    assert verdict.text is not None
                    row[f"{name}_text"] = digest([verdict.text[i].as_py()])
        out += rows
    return out


def why(ours: dict[str, str], theirs: dict[str, str], name: str) -> str:
    """The category of a disagreement."""
    if theirs[name].startswith("!"):
        return "an empty text, at which DataTrove raises ZeroDivisionError" if ours[name] == "empty" else "error"
    return "tokens differ" if ours["tokens"] != theirs["tokens"] else "same tokens"


def compare(ours: list[dict[str, str]], theirs: list[dict[str, str]]) -> dict[str, Any]:
    """Shares of documents alike per filter, and what is behind the rest."""
    out: dict[str, Any] = {
        "compared": len(theirs),
        "same_tokens": sum(a["tokens"] == b["tokens"] for a, b in zip(ours, theirs, strict=True)) / len(theirs),
    }
    for name in FILTERS:
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True)]
        off = [(a, b) for a, b in pairs if a[name] != b[name]]
        flipped = [(a, b) for a, b in off if not a[name] or not b[name]]
        both = [(a, b) for a, b in pairs if f"{name}_text" in a and f"{name}_text" in b]
        out[name] = {
            "same_decision": 1 - len(flipped) / len(pairs),
            "same_reason": 1 - len(off) / len(pairs),
            "dropped": sum(bool(a[name]) for a in ours),
            "differ": dict(Counter(f"{why(a, b, name)}: '{a[name]}' here, '{b[name]}' there" for a, b in off)),
        }
        if name.startswith("c4"):
            same = sum(a[f"{name}_text"] == b[f"{name}_text"] for a, b in both)
            out[name]["same_text"] = same / len(both) if both else None
    return out


def speed(texts: list[str]) -> float:
    """Megabytes of UTF-8 per second of one core that the kernel reads for all its counts, the best of five times."""
    import pyarrow as pa

    from tilth.data.native import text as native

    column = pa.array(texts, pa.large_string())
    seconds = []
    for _ in range(5):
        start = time.thread_time()
        native.compute(column, native.FAMILIES)
        seconds.append(time.thread_time() - start)
    return sum(len(t.encode()) for t in texts) / 1e6 / min(seconds)


def main() -> None:
    """Run both, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=str(ROOT / ".venv-data-peers/bin/python"), help="the peers' Python")
    parser.add_argument("--out", type=Path, default=ROOT / "evidence/bench/data_agreement.json")
    parser.add_argument("--only", nargs="*", help="names of corpora")
    parser.add_argument("--documents", type=int, help="of each corpus; else all")
    parser.add_argument(
        "--seconds", type=float, default=7200, help="for DataTrove per corpus; the rest is not compared"
    )
    parser.add_argument("--keep", type=Path, help="folder for DataTrove's answers, which are used again if found there")
    args = parser.parse_args()
    from tilth.data.native import text as native

    result: dict[str, Any] = {}
    totals: tuple[list[dict[str, str]], list[dict[str, str]]] = ([], [])
    distinct: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)

        def ask(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            source, target = folder / f"{name}.in.jsonl", folder / f"{name}.out.jsonl"
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            if not (target.exists() and source.exists() and source.read_text() == lines):
                source.write_text(lines)
                part = target.with_suffix(".part")
                command = [args.python, __file__, "--peer", str(source), str(part), str(args.seconds)]
                subprocess.run(command, check=True)
                part.rename(target)
            return [json.loads(line) for line in target.read_text().splitlines()]  # ASCII

        for name, texts in corpora():
            if args.only and name not in args.only:
                continue
            texts = texts[: args.documents]
            distinct.update(chunk for text in texts for chunk in text.split())
            theirs = ask(name, [{"text": text} for text in texts])
            ours = verdicts(texts)[: len(theirs)]
            result[name] = compare(ours, theirs) | {"kernel_mb_per_core_second": round(speed(texts), 1)}
            totals[0].extend(ours)
            totals[1].extend(theirs)
            print(name, json.dumps(result[name], indent=1, ensure_ascii=False), flush=True)
        result["all"] = compare(*totals)
        chunks = sorted(distinct)
        answers = ask("chunks", [{"chunks": chunks}])[0]["chunks"]
        wrong = [c for c, tokens in zip(chunks, answers, strict=True) if native.native_tokens(c) != tokens]
        result["chunks"] = {
            "distinct": len(chunks),
            "same": 1 - len(wrong) / len(chunks),
            "same_by_occurrence": 1 - sum(distinct[c] for c in wrong) / distinct.total(),
            "examples": [ascii(c) for c in wrong[:20]],
        }
    for name in ("all", "chunks"):
        print(name, json.dumps(result[name], indent=1, ensure_ascii=False))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
    else:
        main()
