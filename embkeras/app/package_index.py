"""One source archive from the user's package index, by its hash: through pip, through uv, or by plain requests.

Environments made by uv have no pip. The index is the user's in all three ways: pip and uv read their own settings, and the
requests follow what both would read from the environment and from their files.
"""

import configparser
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import urldefrag, urljoin, urlsplit

import requests

from embkeras.errors import DownloadError

_DEFAULT_INDEX = "https://pypi.org/simple/"  # of pip and uv
_SECONDS = 30.0  # without an answer


@dataclass(frozen=True)
class SourceArchive:
    """A source archive in a package index.

    Attributes:
        project: name of the package.
        version: its version.
        sha256: of the archive, 64 hexadecimal digits.
    """

    project: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The archive's name."""
        return f"{self.project}-{self.version}.tar.gz"


def download(archive: SourceArchive) -> bytes:
    """The archive's bytes, from the first of pip, uv and plain requests that gets them.

    Raises:
        DownloadError: none of them does; the message says why, for each.
    """
    failures = []
    for name, way in {"pip": _with_pip, "uv": _with_uv, "requests": _with_requests}.items():
        try:
            return _checked(way(archive), archive)
        except DownloadError as error:
            failures.append(f"{name}: {error}")
    raise DownloadError(
        f"Can't download {archive.file}. {'; '.join(failures)}. Check the network, and the index that pip or uv is set to."
    )


def _checked(contents: bytes, archive: SourceArchive) -> bytes:
    digest = hashlib.sha256(contents).hexdigest()
    if digest != archive.sha256:
        raise DownloadError(f"its SHA-256 is {digest}, not {archive.sha256} ({len(contents):,} bytes)")
    return contents


def _with_pip(archive: SourceArchive) -> bytes:
    if importlib.util.find_spec("pip") is None:
        raise DownloadError("not installed")
    return _pip_download([sys.executable, "-m", "pip"], archive, {})


def _with_uv(archive: SourceArchive) -> bytes:
    """uv can't download an archive itself, but runs a pip that it fetches for that."""
    uv = shutil.which("uv")
    if uv is None:
        raise DownloadError("not installed")
    index = {} if "index-url" in pip_settings() else {"PIP_INDEX_URL": _default_index()}
    return _pip_download([uv, "tool", "run", "--quiet", "--python", sys.executable, "pip"], archive, index)


def _pip_download(pip: list[str], archive: SourceArchive, environment: dict[str, str]) -> bytes:
    """What pip puts into an empty folder. It checks the hash before it opens the archive."""
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder, "requirements.txt")
        requirement.write_text(f"{archive.project}=={archive.version} --hash=sha256:{archive.sha256}\n", "ascii")
        command = [*pip, "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--disable-pip-version-check"]
        command += ["--require-hashes", "--dest", folder, "--requirement", str(requirement)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
        path = Path(folder, archive.file)
        if path.is_file():
            return path.read_bytes()
    printed = done.stderr.splitlines()
    errors = [line for line in printed if line.lower().startswith("error")] or printed
    raise DownloadError(" ".join(errors[-2:]) or "it printed no error")


def _with_requests(archive: SourceArchive) -> bytes:
    """The archive from the first index that links to it. requests reads proxies and netrc, and names in an index's URL."""
    failures = []
    project = re.sub(r"[-_.]+", "-", archive.project).lower()
    for index in indexes():
        host = urlsplit(index).hostname or index  # not the whole URL, which may hold a password
        try:
            page = _get(urljoin(f"{index.rstrip('/')}/", f"{project}/"))
            links = _Links(page.text).hrefs
            named = [link for link in links if PurePosixPath(urlsplit(link).path).name == archive.file]
            if named:
                return _get(urldefrag(urljoin(page.url, named[0])).url).content
            failures.append(f"{host} doesn't have {archive.file}")
        except requests.RequestException as error:
            answer = error.response
            reason = type(error).__name__ if answer is None else f"{answer.status_code} {answer.reason}"
            failures.append(f"{host}: {reason}")
    raise DownloadError(", ".join(failures) or "the settings allow no index")


def _get(url: str) -> requests.Response:
    certificates = pip_settings().get("cert") or os.environ.get("SSL_CERT_FILE")
    response = requests.get(
        url, headers={"Accept": "text/html, */*;q=0.1"}, timeout=_SECONDS, verify=certificates or None
    )
    response.raise_for_status()
    return response


class _Links(HTMLParser):
    """The addresses that a page links to."""

    def __init__(self, page: str):
        super().__init__()
        self.hrefs: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an address."""
        self.hrefs += [value for name, value in attrs if tag == "a" and name == "href" and value]


def indexes() -> list[str]:
    """The indexes that pip and uv would ask, each once, with the one that replaces the default first; only those of HTTP."""
    pip = pip_settings()
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") or os.environ.get("UV_NO_INDEX"):
        return []
    words = [_default_index(), os.environ.get("UV_INDEX", ""), os.environ.get("UV_EXTRA_INDEX_URL", "")]
    words += [_uv_settings().get("extra", ""), pip.get("extra-index-url", "")]
    urls = [re.sub(r"^[\w.-]+=(?=https?:)", "", word) for word in " ".join(words).split()]  # uv's may be NAME=URL
    return [url for url in dict.fromkeys(urls) if url.startswith(("http://", "https://"))]


def _default_index() -> str:
    """The index that the user set in place of the default: in the environment, else in a file; for uv, else for pip."""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if os.environ.get(name):
            return os.environ[name]
    return _uv_settings().get("default") or pip_settings().get("index-url") or _DEFAULT_INDEX


def pip_settings() -> dict[str, str]:
    """pip's settings that matter here: those of its files, and over them those of the environment."""
    found: dict[str, str] = {}
    for path in _pip_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            raise DownloadError(
                f"can't read pip's settings in {str(path)!r}: {' '.join(str(error).split())}"
            ) from error
        for section in ("global", "download"):
            if parser.has_section(section):
                found |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    for name in ("index-url", "extra-index-url", "no-index", "cert"):
        value = os.environ.get(f"PIP_{name.replace('-', '_').upper()}")
        if value:
            found[name] = value
    return found


def _pip_files() -> Iterator[Path]:
    """pip's files of settings, the most important one last."""
    own = os.environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return
    name, home = ("pip.ini" if os.name == "nt" else "pip.conf"), Path.home()
    yield from (folder / name for folder in _machine_folders())
    if os.name == "nt":
        yield home / "pip" / name
        yield Path(os.environ.get("APPDATA", home), "pip", name)
    else:
        yield home / ".pip" / name
        yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "pip", name)
    yield Path(sys.prefix, name)
    if own:
        yield Path(own)


def _machine_folders() -> list[Path]:
    """Where pip looks for the settings of all users of the machine."""
    if os.name == "nt":
        return [Path(os.environ.get("PROGRAMDATA", "C:/ProgramData"), "pip")]
    folders = (os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
    return [*(Path(folder, "pip") for folder in folders), Path("/etc")]


def _uv_settings() -> dict[str, str]:
    """`default` and `extra` indexes of uv's own file: the one it is told, or the user's."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = Path(os.environ.get("UV_CONFIG_FILE") or folder / "uv" / "uv.toml")
    if not path.is_file() or os.environ.get("UV_NO_CONFIG"):
        return {}
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
        listed = settings.get("index", [])
        default = next((entry["url"] for entry in listed if entry.get("default")), settings.get("index-url", ""))
        extra = [entry["url"] for entry in listed if not entry.get("default")] + settings.get("extra-index-url", [])
        return {"default": default, "extra": " ".join(extra)}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, LookupError, TypeError, AttributeError) as error:
        raise DownloadError(f"can't read uv's settings in {str(path)!r}: {error}") from error
