"""Files that are no vectors, known by their first bytes, so that the message can say what they are."""

import re

# what a file begins with, and what it is
_KNOWN = [
    (re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE), "a web page (was the download refused?)"),
    (re.compile(rb"version https://git-lfs\.github\.com/"), "a Git LFS pointer and not the file: run git lfs pull"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive: unpack it first"),
    (re.compile(rb"Rar!\x1a\x07"), "a rar archive: unpack it first"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "compressed with zstd: unpack it first"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"\x89PNG\r\n"), "a picture"),
    (re.compile(rb"PAR1"), "a parquet table: give it as words_file= of a .npy matrix"),
    (re.compile(rb"SQLite format 3\x00"), "an SQLite database"),
]
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_TAR_AT, _TAR = 257, b"ustar"


def what_it_is(head: bytes) -> str | None:
    """What a file that begins so is, if it is known and holds no vectors.

    A pickle is not opened: it can run any code. gensim's own files are pickles.
    """
    if not head:
        return "an empty file"
    if _PICKLE.match(head):
        return (
            "a pickle, which can run any code and is not opened. If it is a gensim file that you trust, convert it once: "
            "python -c \"import gensim; loaded = gensim.utils.SaveLoad.load('FILE'); "
            "getattr(loaded, 'wv', loaded).save_word2vec_format('FILE.vec')\""
        )
    if head[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return "a tar archive: unpack it first"
    return next((what for pattern, what in _KNOWN if pattern.match(head)), None)
