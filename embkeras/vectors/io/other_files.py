"""Files that hold no vectors that are read here: what they are, by their first bytes, and the command that converts them.

Pickles, which PyTorch's and gensim's files are too, can run any code when they are opened. They are recognised, but not
opened: the user decides, with the command that the message shows.
"""

import re

from embkeras.vectors.io.source import Source, compression_of

LOAD_TABLE = "embkeras.tables.saved.load_table(path, layer=None)"  # for models, which load_vectors does not read
_KERAS = {"config.json", "model.weights.h5"}  # in every .keras file
_PLAIN = re.compile(r"[\w./+-]+")  # a path that means the same in a shell and in Python's quotes
_SAVE = "embkeras.save_vectors(embkeras.KeyedVectors"
_PICKLE = "which can run any code and is not opened. If you trust it"

_GENSIM = """python -c "import gensim; loaded = gensim.utils.SaveLoad.load('FILE'); \
getattr(loaded, 'wv', loaded).save_word2vec_format('FILE.vec')\""""
_GENSIM_FASTTEXT = """python -c "import gensim; \
gensim.models.fasttext.save_facebook_model(gensim.models.FastText.load('FILE'), 'FILE.bin')\""""
_DICT = f"""python -c "import pickle, numpy, embkeras; vectors = pickle.load(open('FILE', 'rb')); \
{_SAVE}(list(vectors), numpy.array(list(vectors.values()))), 'FILE.h5')\""""
_PANDAS = f"""python -c "import pandas, embkeras; \
{_SAVE}.from_dataframe(pandas.read_pickle('FILE')), 'FILE.h5')\""""
_TORCHTEXT = f"""python -c "import torch, embkeras; words, _, table, _ = torch.load('FILE'); \
{_SAVE}(words, table.numpy()), 'FILE.h5')\""""
_STATE_DICT = """python -c "import torch, numpy; \
numpy.save('FILE.npy', torch.load('FILE', weights_only=True)['NAME'].numpy())\""""
_ALLENNLP = """tar xzf FILE && python -c "import torch, numpy; weights = torch.load('weights.th', weights_only=True); \
numpy.save('table.npy', next(weights[name].numpy() for name in weights if 'token_embedder' in name))" && \
(echo @@PADDING@@; cat vocabulary/tokens.txt) > table.txt"""
FASTTEXT = """python -c "import fasttext; model = fasttext.load_model('FILE'); \
text = open('FILE.vec', 'w', encoding='utf-8'); print(len(model.words), model.get_dimension(), file=text); \
[print(word, *model[word], file=text) for word in model.words]\""""
_FLORET = """python -c "import floret; model = floret.load_model('MODEL.bin'); \
[print(word, *model.get_word_vector(word)) for word in open('WORDS.txt').read().split()]" > FILE.txt"""
_FINALFUSION = """python -c "import finalfusion; \
finalfusion.compat.write_word2vec('FILE.bin', finalfusion.load_finalfusion('FILE'))\""""
_MAGNITUDE = f"""python -c "import pandas, sqlite3, embkeras; base = sqlite3.connect('FILE'); \
table = pandas.read_sql('select * from magnitude', base, index_col='key').filter(like='dim_'); \
digits = base.execute('select value from magnitude_format where key = ?', ['precision']).fetchone()[0]; \
{_SAVE}.from_dataframe(table / 10.0 ** digits), 'FILE.h5')\""""
_WRITE = "'FILE.txt', quote=FALSE, col.names=FALSE"
_RDATA = f"""Rscript -e "write.table(get(load('FILE')[1]), {_WRITE})\""""
_RDS = f"""Rscript -e "write.table(readRDS('FILE'), {_WRITE})\""""

_TORCH = (
    f"a file of PyTorch, {_PICKLE}, convert it once. What torchtext saved as (words, index, vectors, width): {_TORCHTEXT} "
    f"One table of a state_dict, whose words then go in FILE.txt, one per line: {_STATE_DICT}"
)
# What the contents begin with, and what the file is.
_KINDS = [
    (rb"\s*(?i:<(?:!doctype|html|head|\?xml))", "a web page (was the download refused?)"),
    (rb"version https://git-lfs\.github\.com/", "a Git LFS pointer, not the file itself: run git lfs pull"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first: 7z x FILE"),
    (rb"Rar!\x1a\x07", "a rar archive: unpack it first: unrar x FILE"),
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first: zstd -d FILE"),
    (rb"\]\x00\x00", "compressed as .lzma, without a checksum: unpack it first: xz -dc FILE > FILE.txt"),
    (rb"%PDF-", "a PDF document"),
    (rb"\x89PNG\r\n", "a picture"),
    (
        rb"SQLite format 3\x00.*magnitude_format",
        f"a file of Magnitude, with vectors of length 1. Convert it once: {_MAGNITUDE}",
    ),
    (rb"SQLite format 3\x00", "an SQLite database"),
    (rb"FiFu", f"a file of finalfusion. Convert it once: {_FINALFUSION}"),
    (
        rb"(?:[0-9]+ ){6}[^ \n]+ [^ \n]+ ?\n",
        f"a table of floret, with rows for hashes and not for words. Write the vectors of your words once, from the model that "
        f"was saved with it: {_FLORET}",
    ),
    (rb"RD[ABX][23]\n", f"a file of R (RData). Convert it once: {_RDATA}"),
    (
        rb"X\n\x00\x00\x00[\x02\x03]|B\n[\x02\x03]\x00\x00\x00|A\n[23]\n[0-9]+\n",
        f"a file of R (RDS). Convert it once: {_RDS}",
    ),
    (rb"\x80[\x02-\x05]\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", _TORCH),
    (
        rb"\x80[\x02-\x05].*gensim\.models\.fasttext",
        f"a pickle of gensim's FastText, {_PICKLE}, convert it once. This loses the n-grams, and with them the vectors of all "
        f"other words: {_GENSIM} This keeps those of a whole model: {_GENSIM_FASTTEXT} "
        f"In Python, KeyedVectors.from_gensim(loaded) keeps them too",
    ),
    (rb"\x80[\x02-\x05].*gensim", f"a pickle of gensim, {_PICKLE}, convert it once: {_GENSIM}"),
    (rb"\x80[\x02-\x05].*pandas", f"a pickle of pandas, {_PICKLE}, convert it once: {_PANDAS}"),
    (
        rb"(?:\x80[\x02\x03]|\x80[\x04\x05](?:\x95.{8})?)\}|\(dp?[0-9]*\n",
        f"a pickled dict, {_PICKLE}, convert it once: {_DICT}",
    ),
    (
        rb"\x80[\x02-\x05]|c(?:copy_reg|numpy|pandas|collections)|\([il]p?[0-9]*\n",
        f"a pickle, {_PICKLE}, load it in Python, and write KeyedVectors(words, matrix) with save_vectors",
    ),
    (
        rb".{257}ustar",
        "a tar archive: unpack it first: tar xf FILE",
    ),
    (rb"PK\x05\x06", "an empty .zip archive"),
    (rb"\Z", "an empty file"),
]
_PATTERNS = [(re.compile(pattern, re.DOTALL), what) for pattern, what in _KINDS]
_ALLENNLP_ARCHIVE = re.compile(rb".{257}ustar", re.DOTALL)


def not_vectors(source: Source) -> str | None:
    """What a file is, if it is recognised as something other than word vectors; else None."""
    if source.names >= _KERAS:
        return f"a Keras model. Read a table of it with {LOAD_TABLE}"
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in source.names):
        what: str | None = _TORCH
    elif source.compression and (inner := compression_of(source.head)):
        what = f"a .{inner} file inside a .{source.compression} file: unpack it first"
    elif _ALLENNLP_ARCHIVE.match(source.head) and b"weights.th" in source.head:
        what = f"an archive of AllenNLP. Convert its table once, to table.npy: {_ALLENNLP}"
    else:
        what = next((what for pattern, what in _PATTERNS if pattern.match(source.head)), None)
    return what and with_path(what, source)


def with_path(text: str, source: Source) -> str:
    """A text with the path of a source in the place of FILE, unless a shell or Python's quotes would change it."""
    path = str(source.shown)
    return text.replace("FILE", path) if _PLAIN.fullmatch(path) else text
