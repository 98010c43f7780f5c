"""The smallest file of each form of vectors that people bring: what it is read as, or what its error says."""

from pathlib import Path

import pytest

from embkeras import load_vectors
from embkeras.errors import VectorFileError
from embkeras.vectors.inspection import inspect_vectors

FOLDER = Path(__file__).parent / "forms"
WORDS, MATRIX = ["cat", "new york"], [[0.5, -1], [0.25, 2]]
# file or folder, arguments -> format
READ = [
    ("projector", {}, "projector"),
    ("projector/vectors.tsv", {}, "projector"),
    ("x_tensor.tsv", {}, "projector"),
    ("senna.txt", {"words_file": FOLDER / "senna.lst"}, "projector"),
    ("pandas_index.csv", {}, "csv"),
    ("pandas_columns.csv", {}, "csv"),
    ("pandas.tsv", {}, "tsv"),
    ("pandas.parquet", {}, "parquet"),
    ("lists.parquet", {}, "parquet"),
    ("pandas.feather", {}, "feather"),
    ("dict.json", {}, "json"),
    ("matrix.npy", {"words_file": FOLDER / "word_index.json"}, "npy"),
]
# file -> what the error says it is, and the command or the way on
REFUSED = [
    ("counts.csv", r"numbered from 0 or 1.* 'word', 'count', '0', '1'.*KeyedVectors\.from_dataframe"),
    ("word_index.json", r"entry 0: .* passed as words_file="),
    ("matrix.npy", r"matrix\.txt, matrix\.json, matrix\.parquet.*Pass words_file="),
    ("zip.pt", r"a file of PyTorch, .*python -c .*torch\.load\('.*zip\.pt'"),
    ("old.pt", r"a file of PyTorch, .*python -c .*torch\.load\('.*old\.pt'"),
    ("allennlp.tar.gz", r"an archive of AllenNLP\. .*: tar xzf .*allennlp\.tar\.gz && python -c"),
    ("v.fifu", r"a file of finalfusion\. .*python -c .*load_finalfusion\('.*v\.fifu'\)"),
    ("v.floret", r"a table of floret, .*python -c .*floret\.load_model"),
    ("v.magnitude", r"a file of Magnitude, .*python -c .*sqlite3\.connect\('.*v\.magnitude'\)"),
    ("v.RData", r"a file of R \(RData\)\. .*Rscript -e .*load\('.*v\.RData'\)"),
    ("v.lzma", r"compressed as \.lzma, .*xz -dc .*v\.lzma > .*v\.lzma\.txt"),
    ("dict.pkl", r"a pickled dict, .*python -c .*pickle\.load\(open\('.*dict\.pkl', 'rb'\)\)"),
    ("pandas.pkl", r"a pickle of pandas, .*python -c .*pandas\.read_pickle\('.*pandas\.pkl'\)"),
    ("gensim.kv", r"a pickle of gensim, .*python -c .*save_word2vec_format\('.*gensim\.kv\.vec'\)"),
    ("separate.kv.vectors.npy", r"belongs to 'separate\.kv', a pickle of gensim, .*python -c .*separate\.kv'"),
    ("fasttext.kv", r"a pickle of gensim's FastText, .*loses the n-grams.*save_facebook_model.*from_gensim"),
]


@pytest.mark.parametrize(("name", "arguments", "format"), READ, ids=[name for name, _, _ in READ])
def test_read(name, arguments, format):
    """The words, the values, bit for bit, and the format; what is wanted alone; and the report."""
    if format in ("parquet", "feather"):
        pytest.importorskip("pyarrow")
    loaded = load_vectors(FOLDER / name, **arguments)
    assert (list(loaded.words), loaded.matrix.tolist(), loaded.provenance.format) == (WORDS, MATRIX, format)
    assert load_vectors(FOLDER / name, words=["new york"], **arguments).matrix.tolist() == MATRIX[1:]
    assert inspect_vectors(FOLDER / name, **arguments).format == format


@pytest.mark.parametrize("name", ["spacy", "spacy/vocab", "spacy/vocab/vectors"])
def test_spacy(name):
    """A vocabulary that spaCy wrote, in which two words share a row."""
    loaded = load_vectors(FOLDER / name)
    assert dict(zip(loaded.words, loaded.matrix.tolist(), strict=True)) == {
        "cat": MATRIX[0],
        "tabby": MATRIX[0],
        "new york": MATRIX[1],
    }


@pytest.mark.parametrize(("name", "message"), REFUSED, ids=[name for name, _ in REFUSED])
def test_refused(name, message):
    """By its name, with the command that converts it; nothing in it runs."""
    with pytest.raises(VectorFileError, match=message):
        load_vectors(FOLDER / name)


def test_every_file_is_tried():
    """No file lies there for nothing."""
    tried = {FOLDER / name for name, *_ in (*READ, *REFUSED)}
    beside = {"senna.lst", "metadata.tsv", "x_metadata.tsv", "separate.kv"}
    files = {path for path in FOLDER.rglob("*") if path.is_file() and path.name not in beside}
    assert {path for path in files if "spacy" not in path.parts} <= tried
