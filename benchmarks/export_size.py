"""Size on disk of an exported model: stock `model.export` next to `export_saved_model`.

python benchmarks/export_size.py --rows 100000 --width 100
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from machine import machine_line

import embkeras as ek


def bytes_under(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    """Export one model both ways and print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the table")
    parser.add_argument("--width", type=int, default=100, help="width of a row")
    options = parser.parse_args()
    print(machine_line("tensorflow", "keras"))
    matrix = np.random.default_rng(0).normal(size=(options.rows, options.width)).astype(np.float32)
    vocabulary = ek.Vocabulary(["", "[UNK]", *(f"w{i}" for i in range(options.rows - 2))])
    model = ek.build_classifier(ek.AlignedMatrix(matrix, vocabulary), 2, architecture="mean")
    with tempfile.TemporaryDirectory() as folder:
        stock, own = Path(folder, "stock"), Path(folder, "own")
        model.export(stock, verbose=False)
        version = ek.export_saved_model(model, own, vocabulary=vocabulary)
        table = matrix.nbytes
        print(f"table: {table / 1e6:.1f} MB")
        for name, path in (("model.export", stock), ("export_saved_model", version)):
            weights = bytes_under(path / "variables")
            print(f"{name}: variables {weights / 1e6:.1f} MB = {weights / table:.2f}x the table")


if __name__ == "__main__":
    main()
