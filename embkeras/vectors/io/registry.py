"""load_vectors, save_vectors and convert, and the registry of formats that they use.

To add a format, write a module with functions for a `Format` and enter it in `FORMATS`, or from a package of your own with
`register_format`; CONTRIBUTING.md has the details.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embkeras import _checks, _progress
from embkeras._arrays import first_nonfinite_row
from embkeras._files import check_writable, written_beside
from embkeras.errors import ArgumentError, EmbkerasError, EmbkerasWarning, OutputError, VectorFileError
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.fallbacks import check_fallbacks, spellings
from embkeras.vectors.io import (
    arrow_files,
    delimited,
    fasttext_binary,
    json_file,
    numpy_files,
    projector,
    safetensors_file,
    spacy_folder,
    store,
    text,
    text_reader,
    word2vec_binary,
)
from embkeras.vectors.io.compressed import COMPRESSED
from embkeras.vectors.io.other_files import LOAD_TABLE, not_vectors
from embkeras.vectors.io.reading import header_of
from embkeras.vectors.io.rows import Request, tables_in
from embkeras.vectors.io.separators import Separator, separator_of
from embkeras.vectors.io.source import Source, source_at
from embkeras.vectors.store import KeyedVectors


@dataclass(frozen=True)
class Format:
    """A format of vector files.

    Attributes:
        what: the format in a few words, for the tables of formats in help and documentation.
        recognises: whether a file has the format, by its contents.
        read: reads the requested rows of a file.
        endings: the endings of names for which this is the default format to write; none if it is only read.
        options: the arguments of `load_vectors` that only some formats have: "words_file", "member", "separator", "width",
            "header".
        write: writes vectors to a temporary path, and the sidecars next to that; it also gets the final path.
        can_hold: whether a word, in the row of this number, is read back as the same word.
        sidecars: the paths of the files that `write` writes beside a file. Like the file itself, `convert` never
            overwrites them unless asked to.
        compressed: whether the format can be written compressed.
        inside: the names of the file in the folders that have this format, such as "model.safetensors".
    """

    what: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source, Request], KeyedVectors]
    endings: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()
    write: Callable[[KeyedVectors, Path, Path], None] = lambda vectors, beside, path: None
    can_hold: Callable[[str, int], bool] = lambda word, row: True
    sidecars: Callable[[Path], list[Path]] = lambda path: []
    compressed: bool = False
    inside: tuple[str, ...] = ()


_TEXT_OPTIONS = frozenset({"separator", "width", "header"})
_TABLES = ("projector", "csv", "tsv")
# A file is read in the first format that recognises it.
FORMATS: dict[str, Format] = {
    "store": Format(
        "embkeras's own store, which opens at once and stays on disk",
        store.recognises,
        store.read,
        (".h5",),
        frozenset(),
        store.write,
        store.can_hold,
    ),
    "npz": Format(
        "NumPy archive of vectors and words",
        numpy_files.recognises_npz,
        numpy_files.read_npz,
        (".npz",),
        frozenset({"words_file", "member"}),
        numpy_files.write_npz,
        numpy_files.npz_can_hold,
    ),
    "spacy": Format(
        "vocabulary folder of a spaCy pipeline",
        spacy_folder.recognises,
        spacy_folder.read,
        inside=("vocab/vectors", "vectors"),
    ),
    "npy": Format(
        "NumPy matrix, with its words in a file beside it",
        numpy_files.recognises_npy,
        numpy_files.read_npy,
        (".npy",),
        frozenset({"words_file"}),
        numpy_files.write_npy,
        sidecars=numpy_files.npy_sidecars,
    ),
    "safetensors": Format(
        "table and tokenizer as model2vec writes them, or their folder",
        safetensors_file.recognises,
        safetensors_file.read,
        (".safetensors",),
        frozenset({"words_file", "member"}),
        safetensors_file.write,
        store.can_hold,
        safetensors_file.sidecars,
        inside=(safetensors_file.MODEL,),
    ),
    "parquet": Format(
        "table of words by dimensions in Parquet",
        arrow_files.recognises_parquet,
        arrow_files.read_parquet,
        (".parquet",),
        frozenset(),
        arrow_files.write_parquet,
        arrow_files.can_hold,
    ),
    "feather": Format(
        "table of words by dimensions in Feather",
        arrow_files.recognises_feather,
        arrow_files.read_feather,
        (".feather", ".arrow"),
        frozenset(),
        arrow_files.write_feather,
        arrow_files.can_hold,
    ),
    "json": Format(
        "JSON object: {word: [numbers]}",
        json_file.recognises,
        json_file.read,
        (".json",),
        frozenset(),
        json_file.write,
        json_file.can_hold,
        compressed=True,
    ),
    "projector": Format(
        "vectors.tsv and metadata.tsv of TensorFlow's projector, or their folder",
        projector.recognises,
        projector.read,
        options=frozenset({"words_file"}),
        inside=(projector.VECTORS,),
    ),
    "csv": Format(
        "table of words by dimensions with a line of names, as pandas writes it",
        partial(delimited.recognises, separators=",;"),
        partial(delimited.read, separators=",;"),
        (".csv",),
        frozenset(),
        partial(delimited.write, separator=","),
        delimited.can_hold,
        compressed=True,
    ),
    "tsv": Format(
        "the same between tabs",
        partial(delimited.recognises, separators="\t"),
        partial(delimited.read, separators="\t"),
        (".tsv",),
        frozenset(),
        partial(delimited.write, separator="\t"),
        delimited.can_hold,
        compressed=True,
    ),
    "fasttext-binary": Format("fastText model with its n-grams", fasttext_binary.recognises, fasttext_binary.read),
    "word2vec-binary": Format(
        "word2vec's binary file",
        word2vec_binary.recognises,
        word2vec_binary.read,
        (".bin",),
        frozenset(),
        word2vec_binary.write,
        word2vec_binary.can_hold,
    ),
    "word2vec": Format(
        "text with a header, as word2vec and fastText write it",
        lambda source: header_of(source.head) is not None,
        partial(text_reader.read, header=True),
        (".vec",),
        _TEXT_OPTIONS,
        partial(text.write, header=True),
        text.can_hold,
        compressed=True,
    ),
    "glove": Format(
        "text without a header, as GloVe has it",
        lambda source: True,
        partial(text_reader.read, header=False),
        (".txt",),
        _TEXT_OPTIONS,
        partial(text.write, header=False),
        text.can_hold,
        compressed=True,
    ),
}


def register_format(name: str, format: Format) -> None:
    """Add a format of your own. It comes before the others: a file is read in the first format that recognises it.

    Args:
        name: what `format=` calls it.
        format: what reads it, and writes it if it has endings.

    Raises:
        ArgumentError: a name or an ending that another format has, an ending that no name of a file has, or endings without
            `write`.

    Examples:
        >>> register_format("glove", FORMATS["glove"])
        Traceback (most recent call last):
        embkeras.errors.ArgumentError: name must be one that no format has: choose another. Received: 'glove'.
    """
    global FORMATS
    if not isinstance(name, str) or not name or name in FORMATS:
        raise ArgumentError(f"name must be one that no format has: choose another. Received: {_checks.shown(name)}.")
    if not isinstance(format, Format):
        raise ArgumentError(f"format must be a Format. Received: {_checks.shown(format)} for {name!r}.")
    taken = {ending: each for each, known in FORMATS.items() for ending in known.endings}
    for ending in _checks.strings(format.endings, "endings"):
        if ending in taken:
            raise ArgumentError(
                f"endings must be those that no format has: choose another. Received: {ending!r} for {name!r}, which is that of "
                f"{taken[ending]!r}."
            )
        if not ending or Path(f"x{ending}").suffix.lower() != ending or ending in COMPRESSED:
            raise ArgumentError(
                f"endings must be one dot and small letters each, such as '.vec', without that of a compression. Received: "
                f"{_checks.shown(ending)} for {name!r}."
            )
    if format.endings and format.write is Format.write:
        raise ArgumentError(f"A format with endings must have write=. Received: {format.endings} for {name!r}.")
    FORMATS = {name: format, **FORMATS}


def table_of_formats() -> list[tuple[str, str, str]]:
    """The name of each format, the endings under which it is written (empty if it is only read), and what it is.

    Examples:
        >>> [row for row in table_of_formats() if row[0] in ("word2vec", "spacy")]
        [('spacy', '', 'vocabulary folder of a spaCy pipeline'),
         ('word2vec', '.vec', 'text with a header, as word2vec and fastText write it')]
    """
    return [(name, ", ".join(format.endings), format.what) for name, format in FORMATS.items()]


def load_vectors(
    path: str | os.PathLike[str] | Source,
    *,
    format: str | None = None,
    words: Vocabulary | Iterable[str] | None = None,
    fallbacks: Sequence[str] = ("lower",),
    words_file: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
    dtype: str = "float32",
    member: str | None = None,
    separator: str | tuple[str, str] | None = None,
    width: int | None = None,
    header: bool | Literal["ignore"] | None = None,
    progress: bool | None = None,
) -> KeyedVectors:
    """Read word vectors from a file in any known format, which is recognised by the contents.

    The formats: text, `glove` or `word2vec` (fastText's `.vec`), also compressed (`.gz`, `.bz2`, `.xz`, a member of a `.zip`);
    `word2vec-binary`; `fasttext-binary`, with its n-grams as `subwords`; embkeras's own `store` (`.h5`), which opens at once
    and stays on disk; `npy` and `npz` with a list of words; `safetensors` as model2vec writes them; tables of words by
    dimensions in `csv`, `tsv`, `parquet` and `feather`; `json`: {word: [numbers]}; the pair of files of TensorFlow's
    `projector`; a `spacy` vocabulary. Of safetensors, projector and spaCy, the folder will do. `table_of_formats()` lists all.

    Rows of text are divided by spaces, tabs, commas, a tab after the word, or aligned columns. A reading is taken only if the
    first lines agree on it. Where two readings fit, or words end in numbers, the file is refused, and the error names the
    argument that decides: `separator`, `width` or `header`.

    Nothing is normalised, lower-cased or reordered. If a word is repeated, its first row is kept; the others are counted in
    `provenance.duplicates`, with a warning. A words file that `save_vectors` wrote beside a `.npy` or `.safetensors` file has
    a checksum that ties the two, and is refused if it belongs to another matrix.

    Args:
        path: the file, or a pipe, or "-" for standard input, which are copied to a temporary file (in the folder TMPDIR).
        format: its format, one of `FORMATS`; recognised by the contents by default.
        words: read only these words and the spellings that `fallbacks` makes of them; memory grows only with their number.
        fallbacks: names from `embkeras.vectors.fallbacks`, used with `words`; pass the same to `align`.
        words_file: for `.npy`, `.npz`, safetensors and text of numbers alone, the words: `.txt` (one per line), `.json` (a list,
            or Keras's word_index), or `.parquet` (first column of strings); by default the file with the same stem, or the
            words that the file itself contains.
        limit: read only the first `limit` rows.
        encoding: encoding of the words in text and binary files.
        errors: what to do with words that are invalid in `encoding`: "strict" raises, "replace" puts U+FFFD, "skip" leaves
            the row out. They are counted in `provenance.undecodable`.
        dtype: "float32" or "float16".
        member: name of the file in a zip archive of several, or of the table in a file of several tables.
        separator: for text, what divides a row: one character, such as `" "` or `"\\t"`; "whitespace" for runs of spaces and
            tabs; or a pair, the character after the word and the one between the numbers. By default, the one on which the
            first lines agree; if two do, the file is refused.
        width: for text, the numbers per row; by default what the header says, or most of the first lines have. Words may
            then end in numbers: the last `width` fields are the vector.
        header: for text, whether the first line is a header "rows width"; by default if it looks like one. "ignore" skips it
            and takes the rows that are there, with a warning if it was wrong.
        progress: whether to show a progress bar on standard error; by default on a terminal, if reading takes long.

    Returns:
        The words, their vectors of shape (words, D) in `dtype`, and the `provenance`: what was read, and what was left out.

    Raises:
        VectorFileError: no such file, or a damaged file; the message says the line, row or byte.
        ArgumentError: an invalid argument.
        MissingDependencyError: the format needs a package that is not installed.

    Examples:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "tiny.txt")
        ...     _ = path.write_text("cat 1.0 0.5\\ndog 0.9 0.4\\n")
        ...     load_vectors(path, words=["Dog"])
        KeyedVectors(1 words, vector_size=2, dtype=float32)
    """
    if not isinstance(path, Source):
        path = _checks.path(path, "path")
    if format is not None:
        _checks.one_of(format, "format", FORMATS)
    if progress is not None:
        _checks.flag(progress, "progress")
    request = Request(
        wanted=_wanted_spellings(words, check_fallbacks(fallbacks)),
        words_file=None if words_file is None else _checks.path(words_file, "words_file"),
        limit=None if limit is None else _checks.whole_number(limit, "limit", least=1),
        encoding=encoding,
        errors=_checks.one_of(errors, "errors", ("strict", "replace", "skip")),
        dtype=_checks.one_of(dtype, "dtype", ("float32", "float16")),
        separator=separator_of(separator),
        width=None if width is None else _checks.whole_number(width, "width", least=1),
        header=_checked_header(header),
    )
    try:
        # inspect_vectors reads one source twice.
        with contextlib.nullcontext(path) if isinstance(path, Source) else source_at(file_at(path), member) as source:
            vectors = _read(source, format, request, progress)
    except OSError as error:
        if isinstance(error, EmbkerasError):
            raise
        raise VectorFileError(f"Cannot read vectors from {str(path)!r}: {error.strerror or error}.") from error
    if vectors.provenance is not None and vectors.provenance.duplicates:
        warnings.warn(
            f"{vectors.provenance.path!r} has {vectors.provenance.duplicates:,} rows with a repeated word; the first row of each "
            f"word was kept.",
            EmbkerasWarning,
            stacklevel=2,
        )
    return vectors


def _checked_header(header: Any) -> bool | str | None:
    if header is None or header is True or header is False or header == "ignore":
        return header
    raise ArgumentError(f'header must be True, False, "ignore" or None. Received: {_checks.shown(header)}.')


def save_vectors(
    vectors: KeyedVectors, path: str | os.PathLike[str], *, format: str | None = None, overwrite: bool = True
) -> Path:
    """Write word vectors in the format of the name's ending.

    The formats: GloVe text (`.txt`), word2vec text (`.vec`) and binary (`.bin`), embkeras's own store (`.h5`), `.npz`, `.npy`
    with its words in a `.json` file beside it, `.safetensors` with its words in a `.tokenizer.json` beside it (`tokenizer.json`
    beside `model.safetensors`, as model2vec has it), tables that pandas reads (`.csv`, `.tsv`, `.parquet`, `.feather` or
    `.arrow`), and `.json`. Text, CSV, TSV and JSON are written with 9 digits, so float32 values are read back bit for bit,
    and compressed if the name ends in `.gz`, `.bz2`, `.xz` or `.zip` (`x.vec.gz`). A file appears complete or not at all; a link
    stays, and what it leads to is replaced. `export_projector` writes for TensorFlow's projector.
    No format that is written can hold n-grams: of vectors with `subwords`, only the words are written, with a warning.

    Args:
        vectors: the vectors.
        path: the file to write.
        format: its format, one of `FORMATS`; by default that of the name's ending.
        overwrite: whether to replace the file and those beside it if they exist.

    Returns:
        The path.

    Raises:
        VectorFileError: a word that the format can't hold, NaN, infinity, or a number too large for float32.
        ArgumentError: an invalid argument, or no format is given and the name's ending has none.
        OutputError: the file can't be written, or a file exists and `overwrite` is false.
        MissingDependencyError: the format needs a package that is not installed.
    """
    if not isinstance(vectors, KeyedVectors):
        raise ArgumentError(f"vectors must be KeyedVectors. Received: {_checks.shown(vectors)}.")
    target, chosen = _target(path, format)
    if not _checks.flag(overwrite, "overwrite"):
        _refuse_existing(target, chosen)
    _check_contents(vectors, target, chosen)
    with written_beside(target, sidecars=chosen.sidecars(target), overwrite=overwrite) as beside:
        chosen.write(vectors, beside, target)
    if vectors.subwords is not None:
        warnings.warn(
            f"{str(target)!r} has the {len(vectors):,} words but not the {vectors.subwords.buckets:,} rows of n-grams, so it has "
            f"no vectors for other words.",
            EmbkerasWarning,
            stacklevel=2,
        )
    return target


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    overwrite: bool = False,
    **arguments: Any,
) -> KeyedVectors:
    """Read vectors from one file and write them to another, in the format of its name or of `to`.

    The table doesn't have to fit into memory: what is read is in a nameless file beside the target until the vectors that are
    returned are gone. So the disk needs room for both.

    Args:
        source: a file in any format that `load_vectors` reads.
        target: the file to write; it appears complete or not at all.
        to: its format, if its name's ending doesn't say it.
        overwrite: whether to replace `target` and the files beside it that belong to its format if they exist.
        **arguments: as for `load_vectors`: `format`, `words_file`, `limit`, `encoding`, `errors`, `dtype`, `member`,
            `separator`, `width`, `header`, `progress`.

    Returns:
        The vectors.

    Raises:
        OutputError: the target can't be written; or it exists, or a file beside it, and `overwrite` is false.
        VectorFileError: the source is damaged, or has a word that the target's format can't hold.
        ArgumentError: an invalid argument.
        MissingDependencyError: a format needs a package that is not installed.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     text = Path(folder, "tiny.txt")
        ...     _ = text.write_text("cat 1.0 0.5\\n")
        ...     convert(text, Path(folder, "tiny.vec")), Path(folder, "tiny.vec").read_text()
        (KeyedVectors(1 words, vector_size=2, dtype=float32), '1 2\\ncat 1 0.5\\n')
    """
    _checks.path(source, "source")
    path, chosen = _target(target, to, "target", "to")
    if not _checks.flag(overwrite, "overwrite"):  # before the work of reading
        _refuse_existing(path, chosen)
    check_writable(path.parent)
    with _progress.shown(arguments.get("progress")):
        with tables_in(next(place for place in path.absolute().parents if place.is_dir())):
            vectors = load_vectors(source, **arguments)
        save_vectors(vectors, target, format=to, overwrite=overwrite)
    return vectors


def _check_contents(vectors: KeyedVectors, path: Path, format: Format) -> None:
    """Refuse what would not be read back: a word that the format can't hold, or a number that is not finite in float32."""
    for row, word in enumerate(vectors):  # `words` would keep them all
        if not format.can_hold(word, row):
            raise VectorFileError(
                f"{str(path)!r} can't hold the word {_checks.shown(word)} (row {row}) in its format. "
                f"Write a .npy file instead, which holds any word."
            )
    bad = first_nonfinite_row(vectors.matrix, np.float32)
    if bad is not None:
        raise VectorFileError(
            f"A file of vectors holds finite float32 numbers. Received: NaN, infinity or a number too large in row {bad} "
            f"(word {vectors.words[bad]!r}) for {str(path)!r}."
        )


def file_at(path: Path) -> Path:
    """The file to read at a path: the one inside it, if it is a folder of a known form, or else the path itself."""
    if (path / "saved_model.pb").is_file():
        raise VectorFileError(
            f"Cannot read vectors from {str(path)!r}: it is a SavedModel. Read a table of it with {LOAD_TABLE}."
        )
    inside = (path / name for format in FORMATS.values() for name in format.inside)
    return next((file for file in inside if file.is_file()), path) if path.is_dir() else path


def _read(source: Source, format: str | None, request: Request, progress: bool | None) -> KeyedVectors:
    """The vectors of a source, in the format that it has or that is named, after a check that the arguments fit the format."""
    chosen = _recognised(source, request) if format is None else FORMATS[format]
    if format is None and request.words_file is not None and projector.is_matrix(source):
        chosen = FORMATS["projector"]  # numbers alone, of which the first would be taken for words
    if request.words_file is not None and "words_file" not in chosen.options:
        taking = ", ".join(name for name, each in FORMATS.items() if "words_file" in each.options)
        raise ArgumentError(
            f"words_file= is for the formats {taking}. Received: {str(request.words_file)!r} with {source.name}."
        )
    if source.member is not None and "member" not in chosen.options and source.compression != "zip":
        raise ArgumentError(
            f"member= names a file in a .zip archive or a table in a file of several tables, and {str(source.shown)!r} is "
            f"neither. Received: {source.member!r}."
        )
    for name in sorted(_TEXT_OPTIONS - chosen.options):
        value = getattr(request, name)
        if value is not None:
            value = value.argument if isinstance(value, Separator) else value
            raise ArgumentError(f"{name}= is for text files, and {source.name} isn't one. Received: {value!r}.")
    with _progress.progress(f"reading {source.shown.name}", progress, unasked=True) as report:
        return chosen.read(source, replace(request, progress=report))


def _recognised(source: Source, request: Request) -> Format:
    """The format of a file, by its contents; with separator=, width= or header= a table between commas or tabs is text."""
    reason = not_vectors(source)
    if reason is not None:
        raise VectorFileError(f"{source.name} contains no word vectors: it is {reason}.")
    as_text = any(getattr(request, name) is not None for name in _TEXT_OPTIONS)
    return next(
        format for name, format in FORMATS.items() if not (as_text and name in _TABLES) and format.recognises(source)
    )


def _target(
    path: str | os.PathLike[str], format: str | None, name: str = "path", name_of_format: str = "format"
) -> tuple[Path, Format]:
    """The path to write and its format."""
    path = _checks.path(path, name)
    if str(path) == "-":
        raise ArgumentError(
            f"{name} must be a file: it is renamed when it is complete, which standard output can't be. Received: '-'."
        )
    writable = [each for each, known in FORMATS.items() if known.endings]
    if format is None:
        compressed = path.suffix.lower() in COMPRESSED  # x.vec.gz is x.vec, compressed
        ending = (Path(path.stem).suffix if compressed else path.suffix).lower()
        fitting = [each for each in writable if ending in FORMATS[each].endings]
        if not fitting or (compressed and not FORMATS[fitting[0]].compressed):
            raise ArgumentError(
                f"Can't infer the format from the name {path.name!r}: pass {name_of_format}=, one of {', '.join(writable)}."
            )
        format = fitting[0]
    _checks.one_of(format, name_of_format, writable)
    if path.is_dir():
        raise OutputError(f"Cannot write {str(path)!r}: it is a folder.")
    return path, FORMATS[format]


def _refuse_existing(path: Path, format: Format) -> None:
    """Raise if the file or one of its sidecars exists."""
    for each in (path, *format.sidecars(path)):
        if os.path.lexists(each):
            beside = "" if each == path else f", which is written beside {path.name!r},"
            raise OutputError(
                f"{str(each)!r}{beside} already exists. Pass overwrite=True to replace it, or choose another name."
            )


def _wanted_spellings(words: Vocabulary | Iterable[str] | None, fallbacks: tuple[str, ...]) -> frozenset[str] | None:
    """Every spelling under which a wanted word may be in the file."""
    if words is None:
        return None
    tokens = words.token_to_id if isinstance(words, Vocabulary) else _checks.strings(words, "words")
    return frozenset(spelling for token in tokens for spelling, _ in spellings(token, fallbacks))
