"""A BERT's word pieces as a TensorFlow graph, next to the library that made its tokenizer: the same ids, and how fast.

Strings of ten kinds, a tenth each: any characters of Unicode; those of one script; combining marks; controls, formats and
joiners; pieces in other cases and forms, run together; special pieces as text, whole and damaged; words of about and over 100
characters; ligatures, letters with unusual lower cases, scripts without spaces; emoji; bytes that are not UTF-8, which are
compared with what Python's "replace" makes of them. With --every, each character of Unicode between letters too.

The library's ids are those of its `encode_batch`; the padding as text is an unknown piece, as in `Vocabulary.encode`. Texts
per CPU second are of the demo's tweets, the best of five rounds: in batches of 256, and one by one.

    python benchmarks/word_pieces.py --write           # MiniLM's tokenizer, results/word_pieces.md
    python benchmarks/word_pieces.py --folder FOLDER   # the folder of another model with a tokenizer.json
"""

import argparse
import random
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from machine import machine_line

RESULT = Path(__file__).with_name("results") / "word_pieces.md"
BATCH = 256
KINDS = (
    "any characters",
    "characters of one script",
    "combining marks",
    "controls, formats and joiners",
    "pieces in other cases and forms",
    "special pieces as text",
    "words of about and over 100 characters",
    "unusual letters, scripts without spaces",
    "emoji",
    "bytes that are not UTF-8",
)
MARKS = "\u0301\u0300\u0323\u0307\u0345\u034f\u0334\u302e\u302f\u1b44\ua953\u08d4\u1dfb\U0001d165\U0001d16d\U0001e000\U0001e944"
CONTROLS = (
    "\x00\x08\t\n\x0b\x0c\r\x1b\x7f\x85\xa0\xad\u200b\u200c\u200d\u200e\u2028\u2029\u202e\u2060\u3000\ufeff\ufffd\ufff9"
)
UNUSUAL = (
    "\u0130\u0131\u03a3\u03c3\u03c2\u1e9e\u00df\ufb01\ufb4f\u01c5\u0149\u1e9b\u212b\u2126\u0e33\u0958\U0001d15e"
    "\ud55c\uac01\u1112\u3131\u4e2d\u3042\uf900\U0002f800"
)
EMOJI = "\U0001f600\U0001f468\u200d\U0001f469\ufe0f\U0001f3fd\U0001f1e9\u2764\u20e3\U000e0067\U000e007f#1"


def character(source: random.Random, first: int = 0, stop: int = 0x110000) -> str:
    """A character of a range; surrogates are none."""
    point = source.randrange(first, stop)
    return "?" if 0xD800 <= point < 0xE000 else chr(point)


def hostile(source: random.Random, pieces: Sequence[str], special: Sequence[str], kind: int) -> bytes:
    """A string of a kind, as UTF-8 or, of the last kind, nearly so."""
    count = source.randrange(0, 24)
    words = [source.choice(pieces).removeprefix("##") for _ in range(count)]
    if kind == 0:
        parts = [character(source) for _ in range(count)]
    elif kind == 1:
        start = source.randrange(0, 0x32000)
        parts = [character(source, start, start + 300) for _ in range(2 * count)]
    elif kind == 2:
        parts = [source.choice([*MARKS, *MARKS, "a", "e", " ", ".", character(source, 0x300, 0x1E00)]) for _ in words]
    elif kind == 3:
        parts = [source.choice([word, *source.choices(CONTROLS, k=3)]) for word in words]
    elif kind == 4:
        changed = [str.upper, str.title, str.swapcase, str]
        forms = [lambda text: unicodedata.normalize("NFD", text), lambda text: unicodedata.normalize("NFKC", text), str]
        parts = [source.choice(forms)(source.choice(changed)(word)) for word in words]
    elif kind == 5:
        parts = [source.choice([source.choice(special), source.choice(special)[1:], word, "[", "]"]) for word in words]
    elif kind == 6:
        word = "".join(words) or "a"
        parts = [(word * 101)[: source.choice([99, 100, 101, 102, 300, 5000])], source.choice([" ", "."]), word]
    elif kind == 7:
        parts = [source.choice([word, *source.choices(UNUSUAL, k=3)]) for word in words]
    elif kind == 8:
        parts = source.choices([*EMOJI, "ok"], k=count)
    else:
        damaged = bytearray(" ".join([*words, source.choice(special)]).encode())
        for _ in range(source.randrange(1, 5)):
            damaged[source.randrange(len(damaged))] = source.choice([0x80, 0xC3, 0xE2, 0xED, 0xF4, 0xFF, 0x00])
        return bytes(damaged)
    return source.choice(["", "", " "]).join(parts).encode()


def every(size: int = 16) -> Iterator[bytes]:
    """Each character of Unicode between letters, several a string."""
    known = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    for start in range(0, len(known), size):
        yield " ".join(f"a{each}b {each}" for each in known[start : start + size]).encode()


def rate(encode: Callable[[list[str]], object], texts: Sequence[str], size: int) -> float:
    """Texts per CPU second in batches of a size, the best of five rounds."""
    taken = []
    for _ in range(5):
        started = time.process_time()
        for start in range(0, len(texts), size):
            encode(list(texts[start : start + size]))
        taken.append(time.process_time() - started)
    return len(texts) / min(taken)


def main() -> int:
    """Compare, measure, print, and write the tables; 1 if ids differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="by default that of the package that ships MiniLM")
    parser.add_argument("--strings", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--every", action="store_true", help="each character of Unicode too, 69,504 strings")
    parser.add_argument("--write", action="store_true", help=f"also write results/{RESULT.name}")
    given = parser.parse_args()

    import tensorflow as tf
    import tokenizers

    from embkeras import Vocabulary
    from embkeras.app import material
    from embkeras.serving.word_piece_graph import word_piece_graph

    folder = given.folder or material.minilm_folder()
    vocabulary = Vocabulary.from_tokenizer(folder)
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    started = time.process_time()
    encode, why = word_piece_graph(vocabulary)
    if encode is None:
        print(f"There is no graph: {why}.")
        return 1
    signature = tf.function(encode, input_signature=[tf.TensorSpec([None], tf.string)]).get_concrete_function()
    made = time.process_time() - started

    def graph(texts: Sequence[str | bytes]) -> list[list[int]]:
        return signature(tf.constant(texts, tf.string)).to_list()

    def wanted(texts: Sequence[bytes]) -> list[list[int]]:
        read = library.encode_batch([text.decode("utf-8", "replace") for text in texts])
        return [[vocabulary.oov_id if id_ == vocabulary.padding_id else id_ for id_ in each.ids] for each in read]

    source = random.Random(0)
    pieces, special = list(vocabulary.tokens), list(library.get_added_tokens_decoder().values())
    contents = [each.content for each in special]
    strings = [hostile(source, pieces, contents, number % len(KINDS)) for number in range(given.strings)]
    groups = {name: strings[kind :: len(KINDS)] for kind, name in enumerate(KINDS)}
    if given.every:
        groups["every character of Unicode between letters"] = list(every())
    lines = ["| strings | number | ids | other ids |", "|---|---|---|---|"]
    wrong = 0
    for name, texts in groups.items():
        ids = differing = 0
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            for text, one, other in zip(batch, graph(batch), wanted(batch), strict=True):
                ids += len(other)
                if one != other:
                    differing += 1
                    print(f"{text!a}: {one} in the graph, {other} in the library", file=sys.stderr)
        wrong += differing
        lines.append(f"| {name} | {len(texts):,} | {ids:,} | {differing} |")
    texts = material.tweets()["text"].tolist()
    lines += ["", "| texts per CPU second | in batches of 256 | one by one |", "|---|---|---|"]
    ways = {
        "graph": lambda texts: signature(tf.constant(texts)),
        "tokenizers, `encode_batch`": library.encode_batch,
        "`Vocabulary.encode_batch`": vocabulary.encode_batch,
    }
    for name, way in ways.items():
        lines.append(f"| {name} | {rate(way, texts, BATCH):,.0f} | {rate(way, texts, 1):,.0f} |")
    size = sum(table.numpy().nbytes for table, _ in signature.graph.captures) / 1e6
    lines += ["", f"The tables of the graph are {size:.1f} MB, and were made in {made:.1f} CPU s."]
    text = "\n".join([machine_line("embkeras", "tensorflow", "tokenizers"), "", *lines]) + "\n"
    print(text)
    if given.write:
        RESULT.write_text(f"# Word pieces in a graph\n\nMade by `benchmarks/word_pieces.py`.\n\n{text}", "utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
