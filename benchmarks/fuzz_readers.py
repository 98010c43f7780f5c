"""Coverage-guided fuzzing of the readers of vector files with atheris: any bytes give a table or an error of ours.

Text is also read with plain Python: each row is divided as the reading says, and its numbers go through float(). CSV, TSV and
JSON go through the modules csv and json. Both must give the same words and the same bits. The corpus begins with the files in
tests/strangers/text and tests/strangers/forms. A finding is written to the
folder as crash-...; put it into tests/strangers when it is mended.

atheris has wheels for Linux and Python 3.11 to 3.13, and is in no extra of this package.

    python -m pip install atheris
    python benchmarks/fuzz_readers.py --corpus corpus -max_total_time=300
"""

import argparse
import contextlib
import csv
import io
import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["embkeras.vectors"]):
    import numpy as np

    from embkeras import load_vectors
    from embkeras.errors import EmbkerasError
    from embkeras.vectors.io.delimited import columns_of
    from embkeras.vectors.io.reading import reading_of
    from embkeras.vectors.io.rows import Request
    from embkeras.vectors.io.separators import INFERRED
    from embkeras.vectors.io.source import Source

STRANGERS = [Path(__file__).parent.parent / "tests" / "strangers" / name for name in ("text", "forms")]
FILE = Path(tempfile.mkdtemp()) / "v.txt"


def arguments_of(data: atheris.FuzzedDataProvider) -> dict:
    """Arguments of load_vectors; none most of the time."""
    if data.ConsumeIntInRange(0, 3):
        return {}
    return {
        "separator": data.PickValueInList([None, *(each.argument for each in INFERRED)]),
        "width": data.PickValueInList([None, 1, 2, 3]),
        "header": data.PickValueInList([None, True, False, "ignore"]),
        "errors": data.PickValueInList(["strict", "replace", "skip"]),
        "limit": data.PickValueInList([None, 1, 3]),
        "words": data.PickValueInList([None, ["the", "cat"]]),
    }


def by_float(contents: bytes, arguments: dict) -> tuple[list[str], np.ndarray]:
    """The words and values that plain Python reads."""
    request = Request(width=arguments.get("width"), header=arguments.get("header"))
    reading = reading_of(Source(FILE), io.BytesIO(contents), request, None)
    lines = contents[reading.start :].split(reading.line_end)
    rows = [reading.divided(line.removesuffix(b"\r").rstrip(b" \t")) for line in lines if line.strip(b" \t\r")]
    table: dict[str, list[float]] = {}
    for row in rows:
        assert row is not None, "a row was read that disagrees with the reading"
        table.setdefault(row[0].decode(), [float(number) for number in row[1:]])
    return list(table), np.array(list(table.values()), np.float64).astype(np.float32)


def by_json(contents: bytes) -> tuple[list[str], np.ndarray]:
    """The same of a JSON object."""
    table: dict[str, list[float]] = {}
    for word, row in json.loads(contents.decode("utf-8-sig"), object_pairs_hook=list):
        table.setdefault(word, row)
    return list(table), np.array(list(table.values()), np.float64).astype(np.float32)


def by_csv(contents: bytes, separator: str) -> tuple[list[str], np.ndarray]:
    """The same of a table, whose columns are chosen as the reader chooses them."""
    text = io.StringIO(contents.decode("utf-8-sig", "replace"), newline="")  # a name that is no word may be anything
    names, *rows = [row for row in csv.reader(text, delimiter=separator) if row]
    texts = [place for place in range(len(names)) if not all(is_value(row[place]) for row in rows[:99])]
    columns = columns_of(names, texts, "")
    table: dict[str, list[float]] = {}
    for row in rows:
        table.setdefault(row[columns.words], [float(row[place]) for place in columns.numbers])
    return list(table), np.array(list(table.values()), np.float64).astype(np.float32)


def is_value(field: str) -> bool:
    """Whether float() takes a field."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def test_one_input(raw: bytes) -> None:
    """One input: arguments at its end, contents before them."""
    data = atheris.FuzzedDataProvider(raw)
    arguments = arguments_of(data)
    contents = data.ConsumeBytes(data.remaining_bytes())
    FILE.write_bytes(contents)
    with warnings.catch_warnings(), contextlib.suppress(EmbkerasError):
        warnings.simplefilter("ignore")
        loaded = load_vectors(FILE, progress=False, **arguments)
        assert np.isfinite(loaded.matrix).all()
        if loaded.provenance.format in ("glove", "word2vec") and set(arguments) <= {"width", "header"}:
            words, values = by_float(contents, arguments)
        elif loaded.provenance.format == "json" and not arguments:
            words, values = by_json(contents)
        elif loaded.provenance.format in ("csv", "tsv") and not arguments:
            words, values = by_csv(contents, "," if loaded.provenance.format == "csv" else "\t")
        else:
            return
        assert list(loaded.words) == words
        assert loaded.matrix.tobytes() == values.tobytes()


def main() -> None:
    """Fuzz until libFuzzer's own arguments say to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder for the inputs that found new code")
    arguments, rest = parser.parse_known_args()
    arguments.corpus.mkdir(parents=True, exist_ok=True)
    for path in (path for folder in STRANGERS for path in folder.iterdir() if path.is_file()):
        shutil.copy(path, arguments.corpus / path.name)
    atheris.Setup([sys.argv[0], str(arguments.corpus), f"-artifact_prefix={arguments.corpus}/", *rest], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
