"""The code on the pages and in the README runs as printed, and every public name is in the reference."""

import re
from pathlib import Path

import numpy as np
import pytest

import embkeras as ek
from tests.encoders.decoders import tiny_llama
from tests.encoders.folders import write_folder
from tests.processes import run_python
from tests.variants import variants

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
# The reader's own data: a vector file and labelled texts.
BEFORE = """
import numpy as np

rng = np.random.default_rng(0)
words = ["good", "day", "win", *(f"word{i}" for i in range(57))]
with open("glove.6B.300d.txt", "w") as file:
    for word in words:
        print(word, *(f"{value:.4f}" for value in rng.normal(size=8)), file=file)
texts = [" ".join(rng.choice(words[:40], 6)) for _ in range(40)]
labels = rng.integers(0, 2, 40)
"""
EXPORT = """
import embkeras as ek

known = ek.Vocabulary.from_texts(texts)
table = ek.AlignedMatrix(rng.normal(size=(len(known), 4)).astype("float32"), known)
ek.export_saved_model(ek.build_classifier(table, 2), "saved_models/tweets", vocabulary=known, check=False)
"""
ON_ENCODERS = ("encoders", "decoders")
GLOBAL = ROOT / "docs" / "guides" / "freeze-then-unfreeze.md"  # a setting of TensorFlow's that nothing takes back


def script(page: Path) -> str:
    """The blocks of a page that are run, as one program whose lines have the page's numbers."""
    text = page.read_text("utf-8")
    made = ""
    for match in _BLOCK.finditer(text):
        if match[1] is None:
            line = text.count("\n", 0, match.start(2))
            made += "\n" * (line - made.count("\n")) + match[2]
    return made


def _name(page: Path) -> str:
    return page.stem


# The README, the first page (nearly the same lines), and the guides.
IN_PROCESS = sorted((page for page in PAGES if script(page) and page != GLOBAL), key=lambda page: len(page.parts))


@pytest.mark.filterwarnings("ignore:Frozen layers .* drop nothing out")
@pytest.mark.parametrize("page", variants(IN_PROCESS, always=IN_PROCESS[:1] + IN_PROCESS[2:]), ids=_name)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """In order, in a folder with the files that it names."""
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    exec(BEFORE, namespace)
    if page.stem in ON_ENCODERS:
        pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra contextual)")
        pytest.importorskip("tokenizers", reason="tokenizers is not installed (extra contextual)")
        write_folder(tmp_path / "all-MiniLM-L6-v2", num_hidden_layers=1, hidden_act="gelu", max_position_embeddings=64)
        tiny_llama.write_folder(tmp_path / "decoder")
        namespace |= {"texts": ["cat dog", "a cab", "dog", "bad fig"], "labels": np.arange(4) % 2}
    if page.stem == "serving":
        exec(EXPORT, namespace)
    exec(compile(script(page), str(page.relative_to(ROOT)), "exec"), namespace)


def test_the_code_on_freezing_runs(tmp_path):
    """In a process of its own, since it makes TensorFlow deterministic."""
    end = 'assert list(schedule.history["phase"]) == [1, 2] and len(more) == len(vocabulary) + 1'
    run_python("-c", f"{BEFORE}\n{script(GLOBAL)}\n{end}", cwd=tmp_path)
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    """Each link to a file of the repository names one."""
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text("utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_public_name_is_in_the_reference():
    """On one page each; `errors` is a page."""
    pages = "\n".join(page.read_text("utf-8") for page in sorted((ROOT / "docs" / "reference").glob("*.md")))
    listed = re.findall(r"^::: embkeras\.(\w+)$", pages, re.MULTILINE)
    assert sorted(listed) == sorted(ek.__all__)


def test_every_page_is_in_the_navigation():
    """mkdocs.yml names each page once."""
    named = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(named) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:])
