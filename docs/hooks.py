"""Puts the notebooks on the site: mkdocs runs this, since they lie outside of docs/."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parents[1] / "notebooks"


def on_files(files: Files, *, config: Any) -> Files:
    """Each notebook becomes a file of the site."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links that lead out of docs/ in the repository lead to those files."""
    return markdown.replace("](../notebooks/", "](notebooks/")
