"""Settings of a server: labels of versions."""

import numpy as np
import pytest

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.server_files import checked_labels, write_server_config

VOCABULARY = ek.Vocabulary.from_texts(["good day", "bad day", "so so"])


def parsed(folder):
    """The settings, read as the server reads them."""
    text_format = pytest.importorskip("google.protobuf.text_format")
    messages = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2", reason="the server's messages")
    text = (folder / "models.config").read_text()
    (model,) = text_format.Parse(text, messages.ModelServerConfig()).model_config_list.config
    return model


def test_labels_name_versions(tmp_path):
    """The server loads these versions, and knows them by name."""
    write_server_config(tmp_path, "mood", pads=True, labels={"stable": 3, "canary": 2**63 - 1, "old": 3})
    model = parsed(tmp_path)
    assert dict(model.version_labels) == {"stable": 3, "canary": 2**63 - 1, "old": 3}
    assert list(model.model_version_policy.specific.versions) == [3, 2**63 - 1]
    assert "--allow_version_labels_for_unavailable_models=true" in (tmp_path / "compose.yaml").read_text()


def test_settings_without_labels_load_the_latest(tmp_path):
    """Two versions, so that a request for the older one is still answered."""
    write_server_config(tmp_path, "mood", pads=True)
    assert parsed(tmp_path).model_version_policy.latest.num_versions == 2
    assert not parsed(tmp_path).version_labels


def test_labels_are_written_anew(tmp_path):
    """Over settings without labels, and over other labels; the other files stay."""
    write_server_config(tmp_path, "mood", pads=True)
    (tmp_path / "batching.config").write_text("mine")
    for labels in ({"stable": 1}, {"stable": 1, "canary": 2}):
        write_server_config(tmp_path, "mood", pads=True, labels=labels)
        assert dict(parsed(tmp_path).version_labels) == labels
    write_server_config(tmp_path, "mood", pads=True)
    assert dict(parsed(tmp_path).version_labels) == labels
    assert (tmp_path / "batching.config").read_text() == "mine"


def test_edited_settings_are_kept_and_the_lines_named(tmp_path):
    """What someone wrote is not lost."""
    write_server_config(tmp_path, "mood", pads=True)
    edited = (tmp_path / "models.config").read_text().replace("/models/mood", "/elsewhere")
    (tmp_path / "models.config").write_text(edited)
    with pytest.raises(SavedModelError, match=r'models.config\' was edited.*versions: 2 .*key: "stable" value: 2'):
        write_server_config(tmp_path, "mood", pads=True, labels={"stable": 2})
    assert (tmp_path / "models.config").read_text() == edited


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        ({"stable": 4}, SavedModelError, r"labels\['stable'\] must be a version that exists \(1, 3\).* Received: 4"),
        ({"stable": 2**63}, ArgumentError, rf"labels\['stable'\] must be an integer from 1 to {2**63 - 1}"),
        ({"stable": "3"}, ArgumentError, r"labels\['stable'\] must be an integer.* Received: '3'"),
        ({"stable": True}, ArgumentError, r"labels\['stable'\] must be an integer.* Received: True"),
        ({'a"b': 3}, ArgumentError, "Received: 'a\"b'"),
        ({"": 3}, ArgumentError, "Received: ''"),
        ({3: 3}, ArgumentError, "Received: 3"),
        (["stable"], ArgumentError, r"labels must map names to versions. Received: \['stable'\]"),
    ],
)
def test_labels_are_checked(labels, error, match):
    """The label, the rule and the value."""
    with pytest.raises(error, match=match):
        checked_labels(labels, {1, 3})


def test_export_labels_its_own_version(tmp_path):
    """None is the version that is written, whatever its number."""
    matrix = np.random.default_rng(0).normal(size=(len(VOCABULARY), 4)).astype("float32")
    model = ek.build_classifier(ek.AlignedMatrix(matrix, VOCABULARY), 2, architecture="mean")
    settings = {"vocabulary": VOCABULARY, "check": False}
    path = tmp_path / "mood"
    with pytest.raises(ArgumentError, match=r"labels .* with_config=True"):
        ek.export_saved_model(model, path, labels={"stable": None}, **settings)
    ek.export_saved_model(model, path, labels={"stable": None}, with_config=True, **settings)
    ek.export_saved_model(model, path, labels={"stable": 1, "canary": None}, with_config=True, **settings)
    assert dict(parsed(path).version_labels) == {"stable": 1, "canary": 2}
