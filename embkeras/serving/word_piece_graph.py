"""BERT's word pieces as a TensorFlow graph: a batch of texts to the ids of `Vocabulary.encode`, without tensorflow-text.

Texts become numbers at once, and every step is one operation on all characters of a batch: normalized by a table, cut into
words, and matched with a trie of the pieces, from each character on, the longest piece first (Wu et al. 2016).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from embkeras.serving.characters import LETTER, MARK, NOTHING, POINTS, SPACE, Characters, characters
from embkeras.text.hashing import hash_bucket
from embkeras.text.pieces import PieceTokenizer
from embkeras.text.vocabulary import Vocabulary

_EDGE = b"\xff"  # around a special piece: no byte of UTF-8
_PAGE = 256  # code points
_START, _INSIDE = 0, 1  # the roots of the trie: at the start of a word, and behind it
_NO_PIECE = -1


def word_piece_graph(encoding: Vocabulary) -> tuple[Callable[[tf.Tensor], tf.RaggedTensor] | None, str | None]:
    """Texts (batch,) -> int64 ids (batch, None), and None; or None and the reason why there is no such graph.

    Bytes that are not UTF-8 are read as U+FFFD.

    Args:
        encoding: a vocabulary with a `PieceTokenizer`.
    """
    tokenizer = encoding.tokenizer
    if not isinstance(tokenizer, PieceTokenizer):
        return None, "the vocabulary has no tokenizer of pieces"
    definition = json.loads(tokenizer.definition)
    if why := _refused(encoding, tokenizer, definition):
        return None, why
    made, why = characters(*_settings(definition["normalizer"]))
    if made is None:
        return None, why
    special = sorted((each["content"] for each in definition["added_tokens"]), key=len, reverse=True)
    return _graph(encoding, tokenizer, definition["model"], special, made), None


def _refused(encoding: Vocabulary, tokenizer: PieceTokenizer, definition: Mapping[str, Any]) -> str | None:
    """Why a tokenizer can't be followed exactly, or None if it can."""
    kinds = {part: (definition.get(part) or {}).get("type") for part in ("model", "normalizer", "pre_tokenizer")}
    wanted = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
    for part, kind in wanted.items():
        if kinds[part] != kind and (part, kinds[part]) != ("normalizer", None):
            return f"its {part} is {kinds[part] or 'missing'}, not {kind}"
    if definition["model"]["unk_token"] not in definition["model"]["vocab"]:
        return "it has no piece for unknown words"
    if encoding.drop_unknown or not encoding.oov_ids:
        return "its vocabulary has no id for unknown pieces"
    for each in definition["added_tokens"]:
        content = each["content"]
        if each["normalized"] or each["single_word"] or content != content.strip() or not content:
            return f"its special piece {content!r} is not matched as it is written"
    if len(tokenizer("")) != sum(tokenizer.frame):
        return "its special pieces depend on the text"
    return None


def _settings(normalizer: Mapping[str, Any] | None) -> tuple[bool, bool, bool, bool]:
    """The settings of BertNormalizer as `characters` takes them."""
    if normalizer is None:
        return False, False, False, False
    strip, lowercase = normalizer["strip_accents"], normalizer["lowercase"]
    return (
        normalizer["clean_text"],
        normalizer["handle_chinese_chars"],
        lowercase if strip is None else strip,
        lowercase,
    )


def _graph(
    encoding: Vocabulary, tokenizer: PieceTokenizer, model: Mapping[str, Any], special: Sequence[str], made: Characters
) -> Callable[[tf.Tensor], tf.RaggedTensor]:
    """The graph, with its tables as constants."""
    trie = _Trie(encoding, model, special)
    table = _Table(made, trie.symbols, trie.special)
    unknown, most = _id_of(encoding, model["unk_token"]), int(model["max_input_chars_per_word"])
    before = tokenizer.frame[0]
    ids = [_id_of(encoding, piece) for piece in tokenizer("")]

    def encode(texts: tf.Tensor) -> tf.RaggedTensor:
        points, parts, text_of = _points(texts, special)
        symbols, starts, parts = _words(*table.atoms(points, parts), sorted_marks=table.has_marks)
        found, places = _pieces(symbols, starts, trie, unknown, most)
        rows = tf.gather(text_of, tf.gather(parts, places))
        batch = tf.size(texts, tf.int64)
        inside = tf.RaggedTensor.from_value_rowids(found, rows, nrows=batch, validate=False)
        ends = [tf.tile(tf.constant([part], tf.int64), [batch, 1]) for part in (ids[:before], ids[before:])]
        return tf.concat([ends[0], inside, ends[1]], axis=1)

    return encode


def _points(texts: tf.Tensor, special: Sequence[str]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The code points of texts, the part of each, and the text of each part: a special piece k is one point, POINTS + k.

    A text is split into parts at special pieces, the leftmost first and the longest of those that begin there.
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
    if not special:
        points = tf.strings.unicode_decode(texts, "UTF-8")
        return tf.cast(points.values, tf.int64), points.value_rowids(), tf.range(tf.size(texts, tf.int64))
    pattern = "|".join("".join(f"\\x{{{ord(each):x}}}" for each in piece) for piece in special)
    parts = tf.strings.split(tf.strings.regex_replace(texts, pattern, _EDGE + b"\\0" + _EDGE), _EDGE)
    text_of = parts.value_rowids()
    is_special = (tf.range(tf.size(text_of, tf.int64)) - tf.gather(parts.row_starts(), text_of)) % 2 == 1
    decoded = tf.strings.unicode_decode(tf.where(is_special, "x", parts.values), "UTF-8")
    part_of = decoded.value_rowids()
    numbers = tf.argmax(parts.values[:, None] == tf.constant(special), axis=1)
    points = tf.where(
        tf.gather(is_special, part_of), POINTS + tf.gather(numbers, part_of), tf.cast(decoded.values, tf.int64)
    )
    return points, part_of, text_of


class _Table:
    """Characters as atoms: numbers of 10 bits, the rank of a combining mark and the kind, under a symbol of the trie.

    Few characters become something of their own in a vocabulary, so pages of a table that are equal are stored once.
    """

    def __init__(self, made: Characters, symbols: np.ndarray, special: np.ndarray):
        atoms = symbols[made.points] << 10 | made.ranks << 2 | made.kinds
        self.has_marks = bool(made.ranks.any())
        single = made.counts == 1
        firsts = atoms[np.minimum(made.starts, len(atoms) - 1)]
        values, places = np.unique(np.concatenate([firsts[single], special << 10 | MARK]), return_inverse=True)
        results: dict[tuple[int, ...], int] = {(): 0} | {(int(value),): place + 1 for place, value in enumerate(values)}
        of = np.zeros(-(-(POINTS + len(special)) // _PAGE) * _PAGE, np.int64)
        of[np.concatenate([np.flatnonzero(single), POINTS + np.arange(len(special))])] = places + 1
        for point in np.flatnonzero(made.counts > 1):
            result = tuple(atoms[made.starts[point] : made.starts[point] + made.counts[point]].tolist())
            of[point] = results.setdefault(result, len(results))
        pages, page_of = np.unique(of.reshape(-1, _PAGE), axis=0, return_inverse=True)
        counts = np.array([len(result) for result in results])
        self._pages, self._page_of = _constant(pages.ravel()), _constant(page_of.ravel())
        self._counts, self._starts = _constant(counts), _constant(np.cumsum(counts) - counts)
        self._atoms = _constant([atom for result in results for atom in result])

    def atoms(self, points: tf.Tensor, parts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What characters become, and the part of each result."""
        page = tf.cast(tf.gather(self._page_of, points // _PAGE), tf.int64)
        result = tf.gather(self._pages, page * _PAGE + points % _PAGE)
        counts = tf.cast(tf.gather(self._counts, result), tf.int64)
        first = tf.cast(tf.gather(self._starts, result), tf.int64) - tf.cumsum(counts, exclusive=True)
        results = tf.range(tf.reduce_sum(counts))
        owner = tf.searchsorted(tf.cumsum(counts), results, side="right", out_type=tf.int64)
        return tf.cast(tf.gather(self._atoms, results + tf.gather(first, owner)), tf.int64), tf.gather(parts, owner)


def _words(atoms: tf.Tensor, parts: tf.Tensor, *, sorted_marks: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The symbols of all words, whether a word starts there, and the part of each."""
    if sorted_marks:
        marked = tf.reduce_any(atoms // 4 % 256 > 0)
        atoms = tf.cond(marked, lambda: _sorted_marks(atoms, parts), lambda: atoms)
    there = _where(atoms % 4 != NOTHING)
    atoms, parts = tf.gather(atoms, there), tf.gather(parts, there)
    letters = atoms % 4 == LETTER
    joined = letters & tf.roll(letters, 1, 0) & (parts == tf.roll(parts, 1, 0)) & (tf.range(tf.size(parts)) > 0)
    words = _where(atoms % 4 != SPACE)
    return tf.gather(atoms // 1024, words), tf.gather(~joined, words), tf.gather(parts, words)


def _sorted_marks(atoms: tf.Tensor, parts: tf.Tensor) -> tf.Tensor:
    """Atoms with the combining marks behind each other character in the order of their ranks."""
    ranks = atoms // 4 % 256
    runs = tf.cumsum(tf.cast((ranks == 0) | (parts != tf.roll(parts, 1, 0)), tf.int64))
    return tf.gather(atoms, tf.argsort(runs * 256 + ranks, stable=True))


class _Trie:
    """All pieces as a tree of characters.

    Nodes are numbered by level and in the order of their edges, so that edge k leads to node k + 2, and the edges of all
    nodes are one sorted array of parent * symbols + symbol.
    """

    def __init__(self, encoding: Vocabulary, model: Mapping[str, Any], special: Sequence[str]):
        prefix = model["continuing_subword_prefix"]
        entries = [(_START, piece, piece) for piece in model["vocab"]]
        entries += [(_INSIDE, piece[len(prefix) :], piece) for piece in model["vocab"] if piece.startswith(prefix)]
        entries = [entry for entry in entries if entry[1]]
        alphabet = sorted({ord(each) for _, text, _ in entries for each in text})
        self.symbols = np.zeros(POINTS, np.int64)  # 0 is in no piece
        self.symbols[alphabet] = 1 + np.arange(len(alphabet))
        self.special = 1 + len(alphabet) + np.arange(len(special))
        self._size = 1 + len(alphabet) + len(special)
        roots: list[dict[int, Any]] = [{}, {}]  # a node is its children, and its id under 0
        for root, text, piece in entries:
            node = roots[root]
            for each in text:
                node = node.setdefault(int(self.symbols[ord(each)]), {})
            node[0] = _id_of(encoding, piece)
        for symbol, piece in zip(self.special.tolist(), special, strict=True):
            roots[_START][symbol] = {0: _id_of(encoding, piece)}
        nodes, edges = roots, []
        for number, node in enumerate(nodes):  # grows
            children = sorted(symbol for symbol in node if symbol)
            edges += [number * self._size + symbol for symbol in children]
            nodes += [node[symbol] for symbol in children]
        self._edges = tf.constant(edges, tf.int64)
        self._ids = _constant([node.get(0, _NO_PIECE) for node in nodes])

    def longest(
        self, symbols: tf.Tensor, at: tf.Tensor, roots: tf.Tensor, ends: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The length and the id of the longest piece that starts at each place, 0 where there is none.

        Args:
            symbols: of all words.
            at: the places at which pieces are wanted.
            roots: the node to start from at each of them.
            ends: the end of the word of each symbol.
        """

        def step(
            depth: tf.Tensor, at: tf.Tensor, node: tf.Tensor, lengths: tf.Tensor, ids: tf.Tensor
        ) -> list[tf.Tensor]:
            wanted = node * self._size + tf.gather(symbols, at + depth)
            edge = tf.minimum(tf.searchsorted(self._edges, wanted, out_type=tf.int64), self._edges.shape[0] - 1)
            there = _where(tf.gather(self._edges, edge) == wanted)
            at, node, depth = tf.gather(at, there), tf.gather(edge, there) + 2, depth + 1
            found = tf.cast(tf.gather(self._ids, node), tf.int64)
            pieces = _where(found != _NO_PIECE)
            places = tf.gather(at, pieces)[:, None]
            lengths = tf.tensor_scatter_nd_update(lengths, places, tf.fill(tf.shape(pieces), depth))
            ids = tf.tensor_scatter_nd_update(ids, places, tf.gather(found, pieces))
            longer = _where(at + depth < tf.gather(ends, at))
            return [depth, tf.gather(at, longer), tf.gather(node, longer), lengths, ids]

        nothing, any_ = tf.zeros_like(symbols), tf.TensorShape([None])
        *_, lengths, ids = tf.while_loop(
            lambda depth, at, *_: tf.size(at) > 0,
            step,
            [tf.constant(0, tf.int64), at, roots, nothing, nothing],
            shape_invariants=[tf.TensorShape([]), any_, any_, any_, any_],
        )
        return lengths, ids


def _pieces(symbols: tf.Tensor, starts: tf.Tensor, trie: _Trie, unknown: int, most: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The ids of all pieces, and the place of each in the symbols.

    A word of more than `most` characters, or with a part that is no piece, is one unknown piece.
    """
    word_of = tf.cumsum(tf.cast(starts, tf.int64)) - 1
    first = _where(starts)
    sizes = tf.math.unsorted_segment_sum(tf.ones_like(word_of), word_of, tf.size(first))
    ends, short = first + sizes, sizes <= most
    at = _where(tf.gather(short, word_of))
    roots = tf.where(tf.gather(starts, at), tf.constant(_START, tf.int64), tf.constant(_INSIDE, tf.int64))
    lengths, ids = trie.longest(symbols, at, roots, tf.gather(ends, word_of))

    def step(at: tf.Tensor, used: tf.Tensor, whole: tf.Tensor) -> list[tf.Tensor]:
        length, word = tf.gather(lengths, at), tf.gather(word_of, at)
        used = tf.tensor_scatter_nd_update(used, at[:, None], tf.ones_like(at, tf.bool))
        at += length
        inside = at < tf.gather(ends, word)
        complete = tf.gather(word, _where(~inside))
        whole = tf.tensor_scatter_nd_update(whole, complete[:, None], tf.ones_like(complete, tf.bool))
        return [tf.gather(at, _where(inside & (length > 0))), used, whole]

    any_ = tf.TensorShape([None])
    _, used, whole = tf.while_loop(
        lambda at, *_: tf.size(at) > 0,
        step,
        [tf.gather(first, _where(short)), tf.zeros_like(starts), tf.zeros_like(short)],
        shape_invariants=[any_, any_, any_],
    )
    is_known = tf.gather(whole, word_of)
    places = _where(tf.where(is_known, used, starts))
    return tf.gather(tf.where(is_known, ids, tf.constant(unknown, tf.int64)), places), places


def _id_of(encoding: Vocabulary, piece: str) -> int:
    """The id of a piece in the vocabulary, which reads the padding as an unknown one."""
    found = encoding.token_to_id.get(piece)
    return encoding.oov_ids[hash_bucket(piece, len(encoding.oov_ids))] if found is None else found


def _where(mask: tf.Tensor) -> tf.Tensor:
    """The places that are true; one operation for all that is gathered there, where boolean_mask needs ten for each."""
    return tf.where(mask)[:, 0]


def _constant(values: Any) -> tf.Tensor:
    return tf.constant(np.asarray(values), tf.int32)
