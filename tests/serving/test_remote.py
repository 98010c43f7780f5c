"""Exports that are written to an object store: fsspec's memory:// and TensorFlow's ram://."""

import builtins
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import embkeras as ek
from embkeras.errors import ArgumentError, MissingDependencyError, OutputError, SavedModelError
from embkeras.serving import remote
from embkeras.serving.remote import StoreFolder, destination, written

VOCABULARY = ek.Vocabulary.from_texts(["good day", "bad day", "so so"])


@pytest.fixture(scope="module")
def model():
    """A small classifier."""
    matrix = np.random.default_rng(0).normal(size=(len(VOCABULARY), 4)).astype("float32")
    return ek.build_classifier(ek.AlignedMatrix(matrix, VOCABULARY), 2, architecture="mean")


@pytest.fixture(params=["memory", "ram"])
def place(request):
    """A new address in each kind of store."""
    if request.param == "memory":
        pytest.importorskip("fsspec", reason="memory:// is a store of fsspec")
    return f"{request.param}://bucket-{uuid.uuid4().hex}/models/tweets"


class Recorder:
    """A store that only remembers; the file numbered `fails` is refused."""

    def __init__(self, fails=None):
        self.files, self.log, self.fails = {}, [], fails

    def names(self, folder):
        """What is in a folder."""
        inside = [place[len(folder) + 1 :] for place in self.files if place.startswith(f"{folder}/")]
        return sorted({name.partition("/")[0] for name in inside})

    def send(self, file, place):
        """Keep the bytes."""
        if len(self.log) == self.fails:
            raise PermissionError("no")
        self.log.append(f"send {place}")
        self.files[place] = file.read_bytes()

    def remove(self, place):
        """Forget them."""
        self.log.append(f"remove {place}")
        self.files = {each: kept for each, kept in self.files.items() if not f"{each}/".startswith(f"{place}/")}


def folder_of(*names, inside):
    """A folder with files."""
    for name in names:
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_text(name)
    return inside


def test_export_can_be_fetched_and_asked(model, place, tmp_path):
    """All files arrive, and versions are counted in the store."""
    for version in (1, 2):
        assert (
            ek.export_saved_model(model, f"{place}/", vocabulary=VOCABULARY, check=version == 1) == f"{place}/{version}"
        )
    near = tmp_path / "near"
    fetch(f"{place}/2", near)
    export = ek.ExportedModel(near, trusted=False)
    assert export.card["name"] == "tweets"
    ids = VOCABULARY.encode_batch(["good day"])
    np.testing.assert_allclose(export.scores(ids), model.predict(ids, verbose=0), atol=1e-6)
    assert not Path(place.partition(":")[0] + ":").exists()


def fetch(place, near):
    """Copy a folder of a store to this machine."""
    if place.startswith("memory"):
        import fsspec

        fsspec.filesystem("memory").get(place, str(near), recursive=True)
        return
    for folder, _, files in tf.io.gfile.walk(place):
        inside = near / folder.removeprefix(place).strip("/")
        inside.mkdir(parents=True, exist_ok=True)
        for file in (each for each in files if tf.io.gfile.exists(f"{folder}/{each}")):
            tf.io.gfile.copy(f"{folder}/{file}", str(inside / file))


def test_version_that_exists_is_replaced_on_demand_only(model, place):
    """The same rule as on this machine."""
    ek.export_saved_model(model, place, vocabulary=VOCABULARY, version=3, check=False)
    with pytest.raises(SavedModelError, match=rf"Version 3 of '{place}' already exists"):
        ek.export_saved_model(model, place, vocabulary=VOCABULARY, version=3, check=False)
    assert ek.export_saved_model(model, place, vocabulary=VOCABULARY, version=3, overwrite=True, check=False)
    folder = destination(place)
    assert [each.name for each in folder.iterdir()] == ["3"]
    assert {each.name for each in (folder / "3").iterdir()} >= {"saved_model.pb", "variables", "README.md"}


def test_graph_is_sent_last_and_removed_first(tmp_path):
    """A server never finds a graph whose variables are not there."""
    source = folder_of("variables/variables.index", "saved_model.pb", "zeros/last", inside=tmp_path)
    folder = StoreFolder("s3://b/m/1", Recorder())
    folder.fill(source, overwrite=False)
    assert folder.store.log[-1] == "send s3://b/m/1/saved_model.pb"
    folder.store.log.clear()
    folder.fill(source, overwrite=True)
    assert folder.store.log[:2] == ["remove s3://b/m/1/saved_model.pb", "remove s3://b/m/1"]


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_nothing_is_left_of_a_failed_export(fails, tmp_path):
    """The error names the address and what the store said."""
    source = folder_of("a", "b", "saved_model.pb", inside=tmp_path)
    folder = StoreFolder("s3://b/m/1", Recorder(fails))
    with pytest.raises(OutputError, match=r"'s3://b/m/1': PermissionError: no"):
        folder.fill(source, overwrite=False)
    assert folder.store.files == {}


def test_what_appeared_in_the_meantime_is_kept(tmp_path):
    """Another process wrote this version while the model was exported."""
    folder = StoreFolder("s3://b/m/1", Recorder())
    folder.store.files["s3://b/m/1/x"] = b"theirs"
    with pytest.raises(OutputError, match="already exists"), written(folder, overwrite=False) as near:
        folder_of("y", inside=near)
    assert folder.store.files == {"s3://b/m/1/x": b"theirs"}


def test_failing_block_sends_nothing():
    """Nor does it write on this machine."""
    folder = StoreFolder("s3://b/m/1", Recorder())
    with pytest.raises(ZeroDivisionError), written(folder, overwrite=False) as near:
        folder_of("y", inside=near)
        raise ZeroDivisionError
    assert folder.store.log == []
    assert not near.exists()


def test_store_that_cannot_be_listed_is_an_error():
    """Such as one without credentials."""

    class Locked(Recorder):
        def names(self, folder):
            raise RuntimeError("Unable to locate credentials\nlong story")

    with pytest.raises(OutputError, match=r"Cannot list 's3://b/m': RuntimeError: Unable to locate credentials$"):
        StoreFolder("s3://b/m", Locked()).exists()


@pytest.mark.parametrize(
    ("address", "package"), [("s3://b/m", "s3fs"), ("az://b/m", "adlfs"), ("abfs://b/m", "adlfs"), ("S3://b/m", "s3fs")]
)
def test_missing_package_is_named(address, package, monkeypatch):
    """Without it, nothing is written, least of all a folder `s3:`."""
    hide(monkeypatch, package)
    with pytest.raises(MissingDependencyError, match=rf'b/m\' needs .*"embkeras\[cloud\]" {package}\.'):
        destination(address)


def test_without_fsspec_the_extra_is_named(monkeypatch):
    """Also for a scheme that only fsspec knows."""
    hide(monkeypatch, "fsspec")
    with pytest.raises(MissingDependencyError, match=r'oss://b/m\' needs .*"embkeras\[cloud\]"'):
        destination("oss://b/m")


def hide(monkeypatch, package):
    """Let an import fail."""
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments, **keywords)

    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)


def test_gs_needs_no_package_where_tensorflow_has_it(monkeypatch):
    """TensorFlow writes there by itself."""
    hide(monkeypatch, "gcsfs")
    if "gs" not in map(str, tf.io.gfile.get_registered_schemes()):
        pytest.skip("this TensorFlow has no gs://")
    assert isinstance(destination("gs://b/m").store, remote._Registered)


@pytest.mark.parametrize("address", ["s3://bucket", "s3://bucket/", "memory://", "s3://b/m/../n"])
def test_address_names_a_folder_in_a_bucket(address):
    """The model's name is that of its folder."""
    with pytest.raises(ArgumentError, match=r"must name a folder in the bucket.* Received: '"):
        destination(address)


def test_path_that_lost_a_slash_is_refused():
    """pathlib makes s3:/b of s3://b."""
    with pytest.raises(ArgumentError, match=r"must be a string if it is an address.* Received: PosixPath\('s3:/b/m'\)"):
        destination(Path("s3://b/m"))


@pytest.mark.parametrize("address", ["https://b/m", "file:///b/m", "ftp://b/m"])
def test_addresses_that_take_no_files_are_refused(address):
    """Nothing is sent to a web server."""
    with pytest.raises(ArgumentError, match="path must be a path on this machine"):
        destination(address)


def test_unknown_scheme_is_refused():
    """The error shows it."""
    pytest.importorskip("fsspec")
    with pytest.raises(ArgumentError, match=r"neither knows foo://"):
        destination("foo://b/m")


def test_settings_of_a_server_are_for_this_machine(model):
    """They name a mounted folder."""
    with pytest.raises(ArgumentError, match=r"with_config=True .* Received: 'ram://b/m'"):
        ek.export_saved_model(model, "ram://b/m", vocabulary=VOCABULARY, with_config=True)


@pytest.mark.parametrize(
    ("address", "command"),
    [("s3://b/m", "aws s3 sync 's3://b/m'"), ("gs://b/m/1", "gcloud"), ("az://b/m", "az")],
)
@pytest.mark.parametrize("read", [ek.ExportedModel, ek.TextEncoder, ek.check_saved_model])
def test_reading_from_a_store_is_refused_with_the_command_that_fetches(read, address, command):
    """Nothing is downloaded unasked."""
    with pytest.raises(ArgumentError, match=f"address '{address}'. Fetch the folder first: .*{command}"):
        read(address)
