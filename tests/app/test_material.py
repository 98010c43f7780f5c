"""Demo data: downloaded once, completely or not at all. No test uses the network."""

import gzip
import importlib.util
import io
import tarfile
from pathlib import Path

import pytest

from embkeras.app import material
from embkeras.errors import DataError, DownloadError, MissingDependencyError

TWEETS = "".join(f"{i}\t{i / 1000 - 2}\ttweet {i} café\n" for i in range(1, 4201))


def packed(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    """A .tar.gz of files and of members that aren't regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, contents in members.items():
            member = contents if isinstance(contents, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.name = name
            if isinstance(contents, bytes):
                member.size = len(contents)
                tar.addfile(member, io.BytesIO(contents))
            else:
                tar.addfile(member)
    return buffer.getvalue()


ARCHIVE = packed({material._INNER: packed({material._MEMBER: TWEETS.encode()})})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder for the test."""
    monkeypatch.setenv("EMBKERAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def downloads(monkeypatch):
    """The archives that were asked for, instead of a download."""
    asked = []

    def download(archive):
        asked.append(archive)
        return ARCHIVE

    monkeypatch.setattr(material, "download", download)
    return asked


def test_tweets_are_fetched_once(cache, downloads):
    """The second call reads the cache."""
    assert not material.tweets_are_cached()
    first, second = material.tweets(), material.tweets()
    assert first.equals(second)
    assert material.tweets_are_cached()
    assert downloads == [material._ARCHIVE]


def test_tweets_have_types(cache, downloads):
    """4,200 rows: an int, a float and a text."""
    table = material.tweets()
    assert (len(table), list(table)) == (4200, ["id", "rating", "text"])
    assert table.iloc[0].tolist() == [1, -1.999, "tweet 1 café"]


def test_cache_holds_the_file_only(cache, downloads):
    """Neither the archive nor a partial file stays."""
    material.tweets()
    assert [path.name for path in cache.iterdir()] == [material.TWEETS_FILE]


def test_failed_download_leaves_nothing(cache, monkeypatch):
    """The error of the download, and no file."""

    def failing(archive):
        raise DownloadError(f"can't download {archive.file}")

    monkeypatch.setattr(material, "download", failing)
    with pytest.raises(DownloadError, match=r"vaderSentiment-3\.3\.2\.tar\.gz"):
        material.tweets()
    assert not cache.exists()


def test_interrupted_download_leaves_nothing(cache, monkeypatch):
    """Ctrl-C during the download; the next call downloads again."""

    def interrupted(archive):
        raise KeyboardInterrupt("stop")

    monkeypatch.setattr(material, "download", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        material.tweets()
    assert not cache.exists()
    assert not material.tweets_are_cached()


def test_interrupted_writing_leaves_nothing(cache, downloads, monkeypatch):
    """Ctrl-C while the file is written."""

    def interrupted(path, contents):
        raise KeyboardInterrupt("stop")

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        material.tweets()
    assert list(cache.iterdir()) == []


def test_member_missing(monkeypatch):
    """The message names the member and the archive."""
    with pytest.raises(DownloadError, match=r"inner\.txt from vaderSentiment-3\.3\.2\.tar\.gz"):
        material._member(packed({"other.txt": b"x"}), "inner.txt")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_member_that_is_no_file(kind):
    """Links, folders and pipes are refused, and nothing is followed."""
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, "../../secret"
    with pytest.raises(DownloadError, match=r"inner\.txt in .* regular file"):
        material._member(packed({"inner.txt": member}), "inner.txt")


def test_member_too_large(monkeypatch):
    """The message names the limit."""
    monkeypatch.setattr(material, "_MAX_MEMBER_BYTES", 1000)
    with pytest.raises(DownloadError, match=r"inner\.txt in .* at most 1,000 bytes.*1,001 bytes"):
        material._member(packed({"inner.txt": bytes(1001)}), "inner.txt")


@pytest.mark.parametrize(
    "contents",
    [b"", b"no archive", gzip.compress(b"no tar"), packed({"inner.txt": bytes(9999)})[:60]],
    ids=["empty", "no archive", "no tar", "cut"],
)
def test_invalid_archive(contents):
    """Empty, not gzip, not tar, truncated."""
    with pytest.raises(DownloadError, match=r"inner\.txt from"):
        material._member(contents, "inner.txt")


def test_archive_with_damaged_bytes():
    """One byte overwritten anywhere returns the member or raises our error, never another."""
    whole = packed({"inner.txt": bytes(range(256)) * 20})
    for position in range(10, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        try:
            material._member(bytes(damaged), "inner.txt")
        except DownloadError as error:
            assert "inner.txt" in str(error)


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        TWEETS[:-40].encode(),
        TWEETS.replace("\t", " ", 1).encode(),
        b"\xff" + TWEETS.encode(),
        TWEETS.replace("-1.999", "x").encode(),
    ],
    ids=["empty", "truncated", "two fields", "not UTF-8", "no rating"],
)
def test_damaged_cache_is_refused(cache, downloads, contents):
    """The message names the file and says what to do."""
    cache.mkdir()
    (cache / material.TWEETS_FILE).write_bytes(contents)
    with pytest.raises(DataError, match=rf"cache/{material.TWEETS_FILE}' is damaged: .*Delete it"):
        material.tweets()
    assert not downloads


def test_cache_folder_without_a_setting(monkeypatch, tmp_path):
    """XDG_CACHE_HOME, else .cache in the home folder."""
    monkeypatch.delenv("EMBKERAS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert material.cache_folder() == tmp_path / "embkeras"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert material.cache_folder() == tmp_path / "home" / ".cache" / "embkeras"


def test_glove_without_its_package(monkeypatch):
    """The message names the extra."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"embkeras\[demo\]"):
        material.glove_paths()


def test_real_tweets():
    """The real file, if it has been downloaded before."""
    if not material.tweets_are_cached():
        pytest.skip("the tweets aren't in the cache, and tests use no network")
    table = material.tweets()
    assert len(table) == 4200
    assert table["rating"].between(-4, 4).all()
    assert table["text"].str.strip().all()
