"""Tokenizers: every text comes back, ids equal transformers', special tokens in text stay text, damage is named."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.core.errors import DataError, RecipeError
from tilth.core.technique import resolve
from tilth.data.tokens.tokenizer import Tokenizer

from .test_store import Fake, words

EOT = "<|endoftext|>"
CODE = Path(__file__).read_text().replace(EOT, "") * 3
PROSE = (
    "The quick brown fox — naïve café, 12345 times; it's 3.14 o'clock.\n\n\tÜber-größe! 東京 🙂🙃 e\u0301\r\n  end  "
)
PROSE *= 30
CORPUS = Fake({"code": {"train": [CODE], "held_out": ["x"]}, "prose": {"train": [PROSE, "", "a"]}})


def train(tmp_path: Path, corpus: Fake = CORPUS, **knobs: object) -> Path:
    config = resolve("tokenizer", {"use": "bpe", "vocab_size": 600, **knobs})
    return config.prepare(corpus, tmp_path, lambda line: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("t"))


@pytest.fixture(scope="module")
def bpe(trained: Path) -> Tokenizer:
    return Tokenizer.load(trained)


def test_vocabulary(bpe: Tokenizer) -> None:
    assert (bpe.vocab_size, bpe.bos_id, bpe.eos_id) == (600, 0, 0)
    assert bpe.decode([0], special=True) == EOT
    assert bpe.decode([0]) == ""


@settings(deadline=None)
@given(text=st.text())
def test_every_text_comes_back(bpe: Tokenizer, text: str) -> None:
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert all(0 < i < 600 for i in ids)


def test_the_256_bytes_are_tokens(tmp_path: Path) -> None:
    """vocab_size 257 learns nothing: the tokens are the bytes, each its own."""
    tokenizer = Tokenizer.load(train(tmp_path, vocab_size=257))
    ids = tokenizer.encode(PROSE)
    assert len(ids) == len(PROSE.encode())
    by_byte: dict[int, set[int]] = {}
    for byte, token in zip(PROSE.encode(), ids, strict=True):
        by_byte.setdefault(byte, set()).add(token)
    assert all(len(tokens) == 1 for tokens in by_byte.values())
    assert len(set.union(*by_byte.values())) == len(by_byte)


def test_special_tokens_in_text_are_plain_text(bpe: Tokenizer) -> None:
    ids = bpe.encode(f"a{EOT}b")
    assert 0 not in ids
    assert bpe.decode(ids) == f"a{EOT}b"
    assert all(0 not in t for t in bpe.encode_batch([EOT, f" {EOT} ", EOT * 3]))


@pytest.mark.parametrize("specials", ["text", "parse"])
def test_special_tokens_in_text_are_what_the_knob_says(tmp_path: Path, specials: str) -> None:
    """And transformers, which reads the same two files, says the same; by batch, by column, alone."""
    path = train(tmp_path, specials=specials)
    tokenizer = Tokenizer.load(path)
    texts = [f"a{EOT}b", CODE[:500], EOT * 2, "plain", PROSE[:300]]
    column = pa.array(texts)
    batch = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    assert batch == [tokenizer.encode(t) for t in texts] == [i.tolist() for i in tokenizer.encode_column(column)]
    assert [ids.count(0) for ids in batch] == ([1, 0, 2, 0, 0] if specials == "parse" else [0] * 5)
    assert tokenizer.count_specials(column) == {EOT: 3} and tokenizer.count_specials(column[1:2]) == {}
    assert all(tokenizer.decode(ids, special=True) == text for ids, text in zip(batch, texts, strict=True))
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(path)
    assert [theirs(t, add_special_tokens=False).input_ids for t in texts] == batch


def test_batches_equal_single_texts(bpe: Tokenizer) -> None:
    texts = [CODE, PROSE, "", "x", f"{EOT}"]
    batch = bpe.encode_batch(texts)
    assert [t.tolist() for t in batch] == [bpe.encode(t) for t in texts]
    assert all(t.dtype == np.uint32 for t in batch)


def test_training_twice_is_equal_and_cached(trained: Path, tmp_path: Path) -> None:
    again = train(tmp_path)
    assert again.name == trained.name
    assert (again / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    before = (again / "tokenizer.json").stat().st_mtime_ns
    assert train(tmp_path) == again
    assert (again / "tokenizer.json").stat().st_mtime_ns == before


def test_merges_are_the_most_frequent_pairs(tmp_path: Path) -> None:
    """By hand: in 'ab ab ab cd cd' the pair a+b comes first, then c+d, then (space)+ab."""
    corpus = Fake({"s": {"train": ["ab ab ab ab cd cd cd"]}})
    tokenizer = Tokenizer.load(train(tmp_path, corpus, vocab_size=260, pattern="gpt2"))
    model = json.loads((train(tmp_path, corpus, vocab_size=260, pattern="gpt2") / "tokenizer.json").read_text())
    assert [tuple(m) for m in model["model"]["merges"]] == [("a", "b"), ("c", "d"), ("Ġ", "ab")]
    assert len(tokenizer.encode("ab ab cd")) == 4  # ab, _ab, _, cd


@pytest.mark.parametrize(
    ("knobs", "text", "pieces"),
    [
        ({"digits": 1}, "12345", [*"12345"]),
        ({"digits": 2}, "12345", ["12", "34", "5"]),
        ({"digits": 3}, "12345", ["123", "45"]),
        ({"digits": None}, "12345", ["12345"]),
        ({"pattern": "gpt2", "digits": None}, "x 12345", ["x", " 12345"]),
        ({"pattern": "gpt2"}, "\n\n  x;", ["\n\n ", " x", ";"]),
        ({"pattern": "cl100k"}, "\n\n  x;", ["\n\n", " ", " x", ";"]),
        ({"pattern": "cl100k"}, "(x", ["(x"]),
        ({"pattern": "gpt2"}, "(x", ["(", "x"]),
    ],
)
def test_words_are_cut_as_the_knobs_say(tmp_path: Path, knobs: dict, text: str, pieces: list[str]) -> None:
    """With every word of the training text frequent, all of it is learned: tokens are then whole words."""
    corpus = Fake({"s": {"train": [text] * 50}})
    most = learnable(corpus, tmp_path, **knobs)
    tokenizer = Tokenizer.load(train(tmp_path, corpus, **{**knobs, "vocab_size": most}))
    assert [tokenizer.decode([i]) for i in tokenizer.encode(text)] == pieces


def learnable(corpus: Fake, cache: Path, **knobs: object) -> int:
    """The largest vocabulary a corpus yields, as the refusal of a larger one says."""
    with pytest.raises(DataError, match=r"the text yields only \d+ tokens") as caught:
        train(cache, corpus, **{**knobs, "vocab_size": 9999})
    return int(caught.value.what.split("only ")[1].split()[0])


def test_min_frequency_and_max_bytes_change_what_is_learned(tmp_path: Path) -> None:
    rare = Fake({"s": {"train": ["ab " * 3 + "xyz"]}})
    assert learnable(rare, tmp_path, pattern="gpt2") == 259  # ab, and ab with its space, stand there twice or more
    assert learnable(rare, tmp_path, pattern="gpt2", min_frequency=1) == 262  # three pairs more make " xyz"
    many = Fake({"s": {"train": [chr(97 + i // 26) * 5 + chr(97 + i % 26) * 5 + "\n" for i in range(400)]}})
    assert learnable(many, tmp_path, min_frequency=1, max_bytes=2000) < learnable(many, tmp_path, min_frequency=1)


def test_the_sample_takes_an_equal_part_of_every_source() -> None:
    from tilth.data.tokenize.bpe import _sample

    corpus = Fake(
        {
            "many": {"train": ["m" * 1000] * 3000},  # 3 MB in short documents
            "one": {"train": ["1" * 6_000_000]},  # 6 MB in one
        }
    )
    told: list[float] = []
    pieces = list(_sample(corpus, 9_000_000, 3_000_000, told.append))
    sizes = {c: sum(len(p) for p in pieces if p[0] == c) for c in "m1"}
    assert sum(told) == sum(sizes.values()) <= 3_000_000
    assert sizes["m"] == pytest.approx(1_000_000, rel=0.1)
    assert sizes["1"] == pytest.approx(2_000_000, rel=0.25)
    assert pieces == list(_sample(corpus, 9_000_000, 3_000_000, told.append))
    everything = list(_sample(corpus, 9_000_000, 9_000_000, told.append))
    assert sum(map(len, everything)) == 9_000_000


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"vocab_size": 256}, "a vocabulary of 256 cannot hold the 256 bytes and the separator; 257 or more would"),
        ({"digits": 0}, "digits"),
        ({"pattern": "gpt3"}, "pattern"),
        ({"max_bytes": 0}, "max_bytes"),
    ],
)
def test_knobs_that_cannot_work_are_refused(knobs: dict, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        resolve("tokenizer", {"use": "bpe", **knobs})


def test_transformers_gives_the_same_ids(bpe: Tokenizer, trained: Path) -> None:
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(trained)
    for text in (CODE, PROSE, "", "  a\n\n\n b\t", unicodedata.normalize("NFD", PROSE)):
        assert theirs(text).input_ids == [0, *bpe.encode(text)]  # documents begin with the separator
        assert theirs.decode(bpe.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (0, 0, 600)


def test_save_and_load(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path / "x")
    again = Tokenizer.load(tmp_path / "x")
    assert again.fingerprint == bpe.fingerprint
    assert again.encode(CODE) == bpe.encode(CODE)
    assert words("<s>", "</s>").fingerprint != words("</s>", "</s>").fingerprint


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 599), max_size=40))
def test_streamed_text_is_the_decoded_text(bpe: Tokenizer, ids: list[int]) -> None:
    """For any tokens, also such as are no UTF-8; and no piece ends inside a character."""
    stream = bpe.stream_decoder()
    pieces = [stream.push(i) for i in ids]
    assert not any(p.endswith("\ufffd") for p in pieces)
    assert "".join(pieces) + stream.finish() == bpe.decode(ids)


def test_a_character_of_several_tokens_is_held_back(bpe: Tokenizer) -> None:
    stream = bpe.stream_decoder()
    text = "ok 𝄞 done"  # a clef that the training text lacks: one token per byte
    shown = [stream.push(i) for i in bpe.encode(text)]
    assert "".join(shown) == text
    assert "" in shown


# ---- pretrained ------------------------------------------------------------------------------------------------


def lay(path: Path, tokenizer: Tokenizer, **files: object) -> Path:
    """A directory of a released model: tokenizer.json and the JSON files given."""
    tokenizer.save(path)
    (path / "tokenizer_config.json").unlink()
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def pretrained(path: Path, cache: Path, **knobs: str) -> Tokenizer:
    config = resolve("tokenizer", {"use": "pretrained", "path": str(path), **knobs})
    return Tokenizer.load(config.prepare(CORPUS, cache, lambda line: None))


@pytest.mark.parametrize(
    ("files", "bos", "eos"),
    [
        ({"tokenizer_config": {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}}, 0, 1),
        (
            {"tokenizer_config": {"bos_token": None, "eos_token": "</s>"}, "generation_config": {"bos_token_id": 0}},
            None,
            1,
        ),
        ({"special_tokens_map": {"eos_token": "</s>", "bos_token": {"content": "<s>"}}}, 0, 1),
        ({"generation_config": {"bos_token_id": 0, "eos_token_id": [1, 0]}, "config": {"eos_token_id": 0}}, 0, 1),
        ({"config": {"eos_token_id": 1}}, None, 1),
        ({"tokenizer_config": {"eos_token": "</s>"}, "special_tokens_map": {"eos_token": "<s>"}}, None, 1),
    ],
)
def test_begin_and_end_are_found(tmp_path: Path, files: dict, bos: int | None, eos: int) -> None:
    directory = lay(tmp_path / "hf", words(None, None), **files)
    for path in (directory, directory / "tokenizer.json"):
        tokenizer = pretrained(path, tmp_path / "cache")
        assert (tokenizer.bos_id, tokenizer.eos_id) == (bos, eos)
        assert tokenizer.encode("w3 w1") == [5, 3]


def test_begin_and_end_can_be_named(tmp_path: Path) -> None:
    bare = lay(tmp_path / "hf", words(None, None))
    with pytest.raises(DataError, match="no token is named that ends documents"):
        pretrained(bare, tmp_path)
    tokenizer = pretrained(bare, tmp_path, bos="<s>", eos="w7")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 9)
    with pytest.raises(DataError, match="the eos_token '<none>' is not in the vocabulary"):
        pretrained(bare, tmp_path, eos="<none>")


def test_code_named_in_a_config_is_not_passed_on(tmp_path: Path) -> None:
    config = {"eos_token": "</s>", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "chat_template": "x"}
    directory = lay(tmp_path / "hf", words(None, None), tokenizer_config=config)
    resolved = resolve("tokenizer", {"use": "pretrained", "path": str(directory)})
    written = json.loads((resolved.prepare(CORPUS, tmp_path, lambda s: None) / "tokenizer_config.json").read_text())
    assert "auto_map" not in written
    assert written["chat_template"] == "x"


def test_what_lies_beside_a_tokenizer_is_passed_on(tmp_path: Path) -> None:
    """Chat templates in both places, every special token the vocabulary has, and nothing that changes ids."""
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": True,
        "eos_token": "</s>",
        "padding_side": "left",
    }
    config |= {"unk_token": "w0", "mask_token": "<gone>", "additional_special_tokens": ["<s>", "<gone>"]}
    directory = lay(
        tmp_path / "hf", words(None, None), tokenizer_config=config, special_tokens_map={"pad_token": "<s>"}
    )
    (directory / "chat_template.jinja").write_text("{{ messages }}é")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tools.jinja").write_text("tools")
    resolved = resolve("tokenizer", {"use": "pretrained", "path": str(directory)})
    out = resolved.prepare(CORPUS, tmp_path, lambda s: None)
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}é"
    assert (out / "additional_chat_templates" / "tools.jinja").read_text() == "tools"
    names = {"eos_token": "</s>", "unk_token": "w0", "pad_token": "<s>", "additional_special_tokens": ["<s>"]}
    assert json.loads((out / "special_tokens_map.json").read_text()) == names
    written = json.loads((out / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast" and written["padding_side"] == "left"
    assert "add_prefix_space" not in written and "mask_token" not in written
    tokenizer = Tokenizer.load(out)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (0, 1, None)
    assert Tokenizer.load(out).content == tokenizer.content


TEMPLATE = {"Sequence": {"id": "A", "type_id": 0}}
BEGIN, END = ({"SpecialToken": {"id": n, "type_id": 0}} for n in ("<s>", "</s>"))


@pytest.mark.parametrize(
    ("single", "flag", "begins"),
    [
        (None, None, False),
        (None, True, True),
        ([BEGIN, TEMPLATE], None, True),
        ([BEGIN, TEMPLATE, END], False, True),
        ([TEMPLATE, END], None, False),
        ([TEMPLATE], True, True),
    ],
)
def test_whether_a_text_begins_with_the_begin_token(
    tmp_path: Path, single: list | None, flag: bool | None, begins: bool
) -> None:
    """As the post-processor says, or `add_bos_token` where that adds nothing; saved as a post-processor."""
    given = words("<s>", "</s>")
    given.save(tmp_path / "hf")
    data = json.loads((tmp_path / "hf" / "tokenizer.json").read_text())
    named = {n: {"id": n, "ids": [i], "tokens": [n]} for i, n in enumerate(("<s>", "</s>"))}
    data["post_processor"] = single and {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single,
        "special_tokens": named,
    }
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(data))
    config = {"bos_token": "<s>", "eos_token": "</s>"} | ({} if flag is None else {"add_bos_token": flag})
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path / "hf")
    assert tokenizer.begins == begins and tokenizer.encode("w1") == [3]
    tokenizer.save(tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out").begins == begins
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("w1").input_ids == ([0, 3] if begins else [3])


def test_truncation_and_padding_of_the_file_do_not_apply(tmp_path: Path, trained: Path) -> None:
    data = json.loads((trained / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": EOT,
    }
    tokenizer = Tokenizer(json.dumps(data), {})
    assert tokenizer.decode(tokenizer.encode(PROSE)) == PROSE
    assert len(tokenizer.encode("a")) == 1
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["truncation"] is None and saved["padding"] is None


def test_a_vocabulary_with_gaps_counts_its_rows() -> None:
    text = '{"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 41}, "unk_token": "a"}}'
    assert Tokenizer(text, {}).vocab_size == 42


def test_pretrained_metaspace_streams(tmp_path: Path) -> None:
    """A decoder that treats the first token differently (SentencePiece's leading space)."""
    vocab = [[p, -float(i + 1)] for i, p in enumerate(["<unk>", "</s>", "▁a", "▁bc", "d"])]
    parts = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    model = {"type": "Unigram", "vocab": vocab, "unk_id": 0}
    text = json.dumps({"pre_tokenizer": parts, "decoder": parts, "model": model})
    tokenizer = Tokenizer(text, {"eos_token": 1})
    stream = tokenizer.stream_decoder()
    ids = tokenizer.encode("a bc ad")
    assert [stream.push(i) for i in ids] == ["a", " bc", " a", "d"]
    assert tokenizer.decode(ids) == "a bc ad"


@pytest.mark.parametrize("cut", [0, 1, 100, 2000, -1, -200])
def test_a_truncated_file_is_named(tmp_path: Path, trained: Path, cut: int) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text((trained / "tokenizer.json").read_text().strip()[:cut])
    with pytest.raises(DataError, match=r"tokenizer\.json: this is not a readable tokenizer\.json"):
        pretrained(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", b"\xff\xfe", r"tokenizer\.json: this file is damaged \(byte 0 is not UTF-8\)"),
        ("tokenizer.json", b"{}", r"tokenizer\.json: this is not a readable"),
        ("tokenizer.json", b"[1]", r"tokenizer\.json: this is not a readable"),
        ("tokenizer_config.json", b"{", r"tokenizer_config\.json: this "),
        ("tokenizer_config.json", b"[]", r"tokenizer_config\.json: this file does not hold what it should"),
        ("tokenizer_config.json", b'{"eos_token": "nope"}', "the eos_token 'nope' is not in the vocabulary"),
        ("tokenizer_config.json", b'{"eos_token": 600}', "the eos_token 600 is not in the vocabulary"),
        ("tokenizer_config.json", b'{"eos_token": {"a": [1]}}', "no token is named that ends documents"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, trained: Path, file: str, content: bytes, says: str) -> None:
    Tokenizer.load(trained).save(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=says):
        pretrained(tmp_path, tmp_path / "cache")


def test_missing_files_and_other_formats(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: this file is missing"):
        pretrained(tmp_path / "nowhere", tmp_path)
    (tmp_path / "vocab.json").write_bytes(b"")
    with pytest.raises(DataError, match=r"\.json: this file is missing.*There is a vocab\.json; convert it"):
        pretrained(tmp_path, tmp_path)
