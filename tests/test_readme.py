"""The code in the README runs as printed."""

import re
from pathlib import Path

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
    first, second, third, fourth = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    phases = "\nassert list(schedule.history['phase']) == [1, 2]\n"
    return BEFORE + first + BETWEEN + second + phases + third + AFTER + fourth


def test_the_python_blocks_run(tmp_path):
    """In one process."""
    run_python("-c", script(), cwd=tmp_path)
    assert (tmp_path / "saved_models" / "tweets" / "1" / "saved_model.pb").exists()
    assert not (tmp_path / "backup").exists()
