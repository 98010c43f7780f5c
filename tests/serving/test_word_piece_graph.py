"""Word pieces as a TensorFlow graph: the ids of the tokenizers library, for any text."""

import json
import random
import re

import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.serving.text_graphs import text_graph
from embkeras.serving.word_piece_graph import word_piece_graph
from tests.encoders.folders import write_tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")

MARKS = "\u302e\u302f\U0001d165\U0001d16d\u1b44\ua953"  # combining marks that stay
STARTS = [
    "a",
    "b",
    "A",
    "ab",
    "cab",
    "\u00e9",
    "\u00df",
    "\u1112",
    "\u4e2d",
    "\u212b",
    ".",
    "#",
    "\u03c3",
    "\u03c2",
    "i",
    *MARKS,
]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[MASK]s", *STARTS]
PIECES += [f"##{each}" for each in (*STARTS, "bc", "\u0300", "\u0307", "\u0301", "\u1161", "\u11ab", "\u0302")]
WORDS = [
    *STARTS,
    "cabbc",
    "[MASK]",
    "[MASK]s",
    "[SEP]",
    "[mask]",
    "[MASK",
    "[PAD]",
    "[UNK]",
    "##a",
    "a" * 100,
    "b" * 101,
]
SINGLE = [
    *" \t\n\r\x0b\x85\u3000\u2028\x00\x1b\ufffd\u200b\u200d\u202e\ufeff\u00ad",  # spaces, controls, formats
    *"\u0130\u01c5\u0149\ufb01\ufb4f\ud55c\uac00\u1e9b\u0323\u0307\u0345\u0301\u0300\u034f\u0e33",  # letters and marks
    *"\u2126\uf900\u3131\uff21\U0002f800\U0001d15e\U0001f468\ufe0f\U000e0067\U0010ffff\ufdd0\ue000",
    *MARKS,
]  # fmt: skip


def hostile(rng):
    """A text of words, single characters and any others."""
    parts = []
    for _ in range(rng.randrange(12)):
        kind = rng.randrange(5)
        point = rng.randrange(0x110000 if kind == 0 else 0x3100)
        parts += [chr(point) if not 0xD800 <= point < 0xE000 else ""] if kind < 2 else []
        parts += [rng.choice(WORDS)] if kind == 2 else []
        parts += rng.choices(SINGLE, k=rng.randrange(1, 5)) if kind > 2 else []
    return rng.choice(["", "", " "]).join(parts)


def vocabulary(folder, normalizer="default", **settings):
    """The vocabulary of a tokenizer.json of word pieces."""
    path = write_tokenizer(folder / "tokenizer.json", PIECES, **settings)
    data = json.loads(path.read_text("utf-8"))
    if normalizer != "default":
        data["normalizer"] = normalizer
    for piece in PIECES[4:6]:
        data["added_tokens"].append(dict(data["added_tokens"][0], id=PIECES.index(piece), content=piece))
    path.write_text(json.dumps(data), "utf-8")
    return ek.Vocabulary.from_tokenizer(path)


def bert(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True):
    """A normalizer of a tokenizer.json."""
    settings = {"clean_text": clean_text, "handle_chinese_chars": handle_chinese_chars}
    return {"type": "BertNormalizer", **settings, "strip_accents": strip_accents, "lowercase": lowercase}


@pytest.mark.parametrize(
    "normalizer",
    ["default", bert(lowercase=False), bert(False, False, strip_accents=False)],
    ids=["uncased", "cased", "accents kept"],
)
def test_ids_are_those_of_the_library(normalizer, tmp_path):
    """On special pieces as text, combining marks, controls, scripts without spaces, long words, and any characters."""
    encoding = vocabulary(tmp_path, normalizer)
    graph, why = text_graph(encoding, tmp_path)
    assert why is None
    rng = random.Random(0)
    texts = ["", *WORDS, *SINGLE, *(hostile(rng) for _ in range(400))]
    texts += ["".join(rng.choices([*MARKS, "\u0301", "\u034f", "\x85", "a", "[MASK]"], k=8)) for _ in range(100)]
    got = graph.encode(tf.constant([text.encode() for text in texts])).to_list()
    for text, ids in zip(texts, got, strict=True):
        assert ids == encoding.encode(text).tolist(), ascii(text)


def test_bytes_that_are_no_text(tmp_path):
    """They are read as U+FFFD, which stays without a normalizer; the byte around special pieces in the graph is no exception."""
    encoding = vocabulary(tmp_path, None)
    graph, _ = text_graph(encoding, tmp_path)
    texts = [b"ab\xff[MASK]\xff cab", b"\xffa\xff", b"\xed\xa0\x80a", b"a\xc3", b"\xf4\x90\x80\x80b"]
    wanted = [encoding.encode(text.decode("utf-8", "replace")).tolist() for text in texts]
    assert graph.encode(tf.constant(texts)).to_list() == wanted
    assert graph.encode(tf.constant([], tf.string)).shape[0] == 0


def test_pieces_that_the_vocabulary_lacks(tmp_path):
    """With fewer tokens than the tokenizer has, the others are unknown."""
    whole = vocabulary(tmp_path, bert(lowercase=False))
    tokens = [token for token in whole.tokens if token not in ("cab", "[MASK]", "##b")]
    fewer = ek.Vocabulary(tokens, padding_id=0, oov_ids=(1,), tokenizer=whole.tokenizer)
    graph, _ = text_graph(fewer, tmp_path)
    texts = ["cab ab", "[MASK]a", "bb"]
    assert graph.encode(tf.constant(texts)).to_list() == [fewer.encode(text).tolist() for text in texts]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "its normalizer is Lowercase, not BertNormalizer"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is Whitespace"),
        ({"pre_tokenizer": None}, "its pre_tokenizer is missing"),
        ({"added": {"normalized": True}}, r"'\[PAD\]' is not matched as it is written"),
        ({"added": {"single_word": True}}, r"'\[PAD\]' is not matched as it is written"),
    ],
)
def test_what_has_no_exact_graph_says_why(change, why, tmp_path):
    """The card of the export says it, and that TextEncoder makes the ids."""
    encoding = vocabulary(tmp_path)
    data = json.loads(encoding.tokenizer.definition)
    data["added_tokens"][0] |= change.pop("added", {})
    path = tmp_path / "other.json"
    path.write_text(json.dumps(data | change), "utf-8")
    graph, reason = text_graph(ek.Vocabulary.from_tokenizer(path), tmp_path)
    assert graph is None and reason.startswith(
        "the pieces of an encoder's tokenizer are made by TextEncoder, not in a graph"
    )
    assert re.search(why, reason)
    assert word_piece_graph(ek.Vocabulary(["", "[UNK]", "a"]))[0] is None
