"""The code in the README runs as printed."""

import re
from pathlib import Path

import numpy as np
import pytest

import embkeras as ek
from tests.encoders.folders import TEXTS, write_folder
from tests.processes import run_python

README = Path(__file__).parents[1] / "README.md"
# The reader's own data: a vector file and labelled texts.
BEFORE = """
import numpy as np

rng = np.random.default_rng(0)
words = [f"word{i}" for i in range(40)]
with open("glove.6B.300d.txt", "w") as file:
    for word in words:
        print(word, *(f"{value:.4f}" for value in rng.normal(size=8)), file=file)
texts = [" ".join(rng.choice(words, 6)) for _ in range(40)]
labels = rng.integers(0, 2, 40)
"""
BETWEEN = """
train_ids, train_labels, val_ids, val_labels = ids[:32], labels[:32], ids[32:], labels[32:]
"""
AFTER = """
assert model.get_layer("embedding").input_dim == len(more) == len(vocabulary) + 1
"""


def script() -> str:
    """All blocks in order, as one program, with a vector file and some texts."""
    first, second, third, _, fourth = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    phases = "\nassert list(schedule.history['phase']) == [1, 2]\n"
    return BEFORE + first + BETWEEN + second + phases + third + AFTER + fourth


def test_the_python_blocks_run(tmp_path):
    """In one process."""
    run_python("-c", script(), cwd=tmp_path)
    assert (tmp_path / "saved_models" / "tweets" / "1" / "saved_model.pb").exists()
    assert not (tmp_path / "backup").exists()


@pytest.mark.filterwarnings("ignore:Frozen layers .* drop nothing out")
def test_the_block_on_encoders_runs(tmp_path, monkeypatch):
    """With a folder of a small BERT."""
    pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
    pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")
    block = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)[3]
    write_folder(tmp_path / "all-MiniLM-L6-v2", hidden_act="gelu", max_position_embeddings=64)
    monkeypatch.chdir(tmp_path)
    exec(block, {"ek": ek, "texts": TEXTS, "labels": np.arange(len(TEXTS)) % 2})
    assert (tmp_path / "saved_models" / "encoder" / "1" / "saved_model.pb").exists()
