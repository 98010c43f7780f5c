"""What an export that isn't trusted may hold, found before TensorFlow loads it."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message_factory import GetMessageClass

import embkeras as ek
from embkeras.errors import ArgumentError, SavedModelError
from embkeras.serving.trust import ALLOWED, READING, SAVING, check_operations, stored_sha256, weights_sha256

IDS = [[2, 3, 0]]
POOL = tf.compat.v1.MetaGraphDef.DESCRIPTOR.file.pool
SavedModel = GetMessageClass(POOL.FindMessageTypeByName("tensorflow.SavedModel"))


def write_export(folder, seed=0, **arguments):
    """A small export; returns the folder of its version."""
    vocabulary = ek.Vocabulary.from_texts(["good day", "bad day", "so so"])
    matrix = np.random.default_rng(seed).normal(size=(len(vocabulary), 4)).astype("float32")
    model = ek.build_classifier(ek.AlignedMatrix(matrix, vocabulary), 2, architecture="mean")
    return ek.export_saved_model(model, folder, vocabulary=vocabulary, check=False, **arguments)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The folder of an export."""
    return write_export(tmp_path_factory.mktemp("exports") / "model")


@pytest.fixture
def export(original, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(original, tmp_path / "1")


def edited(folder, edit):
    """Change the message of an export."""
    message = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    edit(message.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())


def function_with(graph, op):
    """The first function of the library with such an operation."""
    return next(each for each in graph.graph_def.library.function if any(node.op == op for node in each.node_def))


def node_of(function, op):
    """Its node."""
    return next(node for node in function.node_def if node.op == op)


def refused(folder, match):
    """Whether the folder is refused before it is loaded."""
    with pytest.raises(SavedModelError, match=match):
        ek.ExportedModel(folder, trusted=False)


def test_our_own_exports_are_loaded(original):
    """With text, class names and every signature; the scores are the same."""
    scores = [ek.ExportedModel(original, trusted=trusted).scores(IDS) for trusted in (True, False)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_tables_in_fewer_bytes_are_loaded(dtype, tmp_path):
    """Their operations are among the allowed ones, and the fingerprint is that of what is stored."""
    ek.ExportedModel(write_export(tmp_path, dtype=dtype, out_of_range="error"), trusted=False)


def test_layers_of_many_kinds_are_loaded(tmp_path):
    """Recurrent, convolutional, attention and normalising layers, and strings that are looked up."""
    ids = keras.Input((8,), dtype="int64")
    vectors = keras.layers.Embedding(20, 4)(ids)
    attended = keras.layers.MultiHeadAttention(2, 2)(vectors, vectors)
    mixed = keras.layers.LayerNormalization()(keras.layers.Dense(4, "gelu")(attended) + vectors)
    read = [
        keras.layers.Bidirectional(keras.layers.GRU(3))(mixed),
        keras.layers.LSTM(3)(mixed),
        keras.layers.GlobalMaxPooling1D()(keras.layers.SeparableConv1D(3, 2, activation="swish")(mixed)),
        keras.layers.Flatten()(keras.layers.AveragePooling1D(2)(keras.layers.BatchNormalization()(mixed))),
        keras.layers.SpatialDropout1D(0.2)(mixed)[:, 0],
    ]
    model = keras.Model(ids, keras.layers.Dense(2, "softmax")(keras.layers.Concatenate()(read)))
    lookup = keras.layers.TextVectorization(vocabulary=["good", "day"], output_sequence_length=8)
    module = tf.Module()
    module.held, module.lookup = [each.value for each in model.variables], lookup

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def serve(text):
        return model(lookup(text), training=False)

    tf.saved_model.save(module, str(tmp_path), signatures=serve)
    check_operations(tmp_path)


def test_every_allowed_name_is_an_operation():
    """A name that is spelled wrongly would never be met."""
    assert [name for name in sorted(ALLOWED | SAVING | {READING}) if not hasattr(tf.raw_ops, name)] == []


def test_no_allowed_operation_leaves_the_process():
    """Nothing about files, Python, other devices, or data sets, by their names; the names of variables are not files."""
    alarming = (
        r"File|Py|Write|Save|Restore|Send|Recv|Socket|Rpc|Remote|Print|Proto|Dataset|Iterator|Reader|Queue|Summary"
    )
    alarming += r"|ImmutableConst|Remap|Xla|Tpu|TPU|Nccl|Collective|Checkpoint|Worker|Session|Debug|Load|Fetch|Http"
    assert [name for name in sorted(ALLOWED) if re.search(alarming, name)] == []


@pytest.mark.parametrize(
    "op", ["WriteFile", "ReadFile", "EagerPyFunc", "PyFunc", "PrintV2", "ImmutableConst", "Unheard"]
)
@pytest.mark.parametrize("place", ["graph", "signature", "nested", "gradient", "unused"])
def test_planted_operations_are_found(op, place, export):
    """In the graph, a signature, a function inside one, the gradient of one, and a function that nothing calls."""

    def plant(graph):
        library = graph.graph_def.library
        if place == "graph":
            graph.graph_def.node.add(name="planted", op=op)
            return
        if place == "signature":
            function_with(graph, "StatefulPartitionedCall").node_def.add(name="planted", op=op)
            return
        planted = library.function.add()
        planted.signature.name = "planted_function"
        planted.node_def.add(name="planted", op=op)
        if place == "nested":
            call = function_with(graph, "ResourceGather").node_def.add(name="call", op="PartitionedCall")
            call.attr["f"].func.name = "planted_function"
        elif place == "gradient":
            library.gradient.add(function_name=library.function[0].signature.name, gradient_func="planted_function")

    edited(export, plant)
    where = {"graph": "the graph", "signature": r"function '\w*signature_wrapper\w*'"}.get(
        place, "function 'planted_function'"
    )
    refused(export, rf"the operation '{op}' in {where} \(node 'planted'\)")


def test_what_is_planted_runs_if_it_is_trusted_and_not_otherwise(export, tmp_path):
    """A WriteFile in the initialiser of a table runs as soon as TensorFlow loads the export."""
    target = tmp_path / "written"

    def plant(graph):
        function = function_with(graph, READING)
        for name, text in (("place", str(target)), ("contents", "planted")):
            node = function.node_def.add(name=name, op="Const")
            node.attr["dtype"].type = tf.string.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(text))
        function.node_def.add(name="planted", op="WriteFile", input=["place:output:0", "contents:output:0"])
        node_of(function, "NoOp").input.append("^planted")

    edited(export, plant)
    refused(export, "the operation 'WriteFile'")
    assert not target.exists()
    ek.ExportedModel(export).scores(IDS)
    assert target.read_text() == "planted"


class Planted(tf.Module):
    """A module whose only function does what it shouldn't, deep inside."""

    def __init__(self, do):
        super().__init__()
        self.do = do

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32)])
    def serve(self, x):
        """Twice x."""
        return tf.cond(tf.size(x) > 3, lambda: self.do(x), lambda: 2 * x)


@tf.custom_gradient
def written_backwards(x):
    """Twice x, whose gradient writes a file."""

    def gradient(upstream):
        tf.io.write_file("written", "planted")
        return 2 * upstream

    return 2 * x, gradient


@pytest.mark.parametrize(
    ("do", "op"),
    [
        (lambda x: tf.py_function(lambda y: 2 * y, [x], tf.float32), "EagerPyFunc"),
        (lambda x: tf.numpy_function(lambda y: 2 * y, [x], tf.float32), "PyFunc"),
        (lambda x: x + float(1) * tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32), "ReadFile"),
        (lambda x: tf.function(lambda y: tf.map_fn(written_backwards, y))(x), "WriteFile"),
    ],
)
def test_functions_that_tensorflow_wrote_are_walked(do, op, tmp_path):
    """Branches, loops and gradients are functions of the library."""
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(Planted(do), str(tmp_path), options=options)
    with pytest.raises(SavedModelError, match=f"the operation '{op}' in function"):
        check_operations(tmp_path)


def bound_to_a_constant(graph):
    """The file that a table is read from is no asset."""
    held = graph.object_graph_def.concrete_functions[function_with(graph, READING).signature.name]
    held.bound_inputs[0] = next(
        i for i, n in enumerate(graph.object_graph_def.nodes) if n.WhichOneof("kind") == "constant"
    )


def a_path_of_its_own(graph):
    """The file name is written in the function."""
    function = function_with(graph, READING)
    function.node_def.add(name="place", op="Const")
    node_of(function, READING).input[1] = "place:output:0"


def call(graph, caller, function):
    """Call a function in the first function that has an operation."""
    node = function_with(graph, caller).node_def.add(name="call", op="StatefulPartitionedCall")
    node.attr["f"].func.name = function_with(graph, function).signature.name


def deep_call(graph):
    """A function is called in the attributes of a reference to another function."""
    inner = function_with(graph, "ResourceGather").node_def[0].attr["f"].func.attr["g"].list.func.add()
    inner.name = function_with(graph, "RestoreV2").signature.name


def twice(graph):
    """Two functions of one name."""
    graph.graph_def.library.function.add().CopyFrom(graph.graph_def.library.function[0])


def restored_by_a_signature(graph):
    """A signature may be called: its function would save or restore what the caller names."""
    name = function_with(graph, "RestoreV2").signature.name
    graph.object_graph_def.concrete_functions[name].bound_inputs.append(0)


def called_by_the_graph(graph):
    """A second node of the graph restores."""
    node = graph.graph_def.node.add(name="again", op="StatefulPartitionedCall")
    node.attr["f"].func.name = function_with(graph, "RestoreV2").signature.name


def saver_with_its_own_file(graph):
    """The placeholder for the saver's file name is a constant."""
    given = graph.saver_def.filename_tensor_name.split(":")[0]
    next(node for node in graph.graph_def.node if node.name == given).op = "Const"


def saver_of_another_file(graph):
    """The saver doesn't take the file it is given."""
    node = next(n for n in graph.graph_def.node if n.name == graph.saver_def.restore_op_name)
    node.input[0] = "card_request"


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (bound_to_a_constant, "reads a file that is not an asset"),
        (a_path_of_its_own, "reads a file that is not an asset"),
        (lambda graph: call(graph, "ResourceGather", READING), "reads a file, and not to fill a table"),
        (lambda graph: call(graph, "ResourceGather", "RestoreV2"), "saves or restores files"),
        (deep_call, "saves or restores files"),
        (restored_by_a_signature, "saves or restores files"),
        (called_by_the_graph, "saves or restores files"),
        (saver_with_its_own_file, r"file name of its own \(node 'saver_filename'\)"),
        (saver_of_another_file, "takes another file than the one it is given"),
        (lambda graph: graph.graph_def.node.add(name="n", op="RestoreV2"), "the operation 'RestoreV2' in the graph"),
        (lambda graph: graph.graph_def.node.add(name="n", op=READING), f"the operation '{READING}' in the graph"),
        (twice, "two functions share a name"),
        (lambda graph: graph.object_graph_def.nodes.add(registered_name="theirs"), "is of the kind 'theirs'"),
        (
            lambda graph: graph.object_graph_def.nodes.add().user_object.MergeFromString(b"\x0a\x09optimizer"),
            "'optimizer'",
        ),
        (lambda graph: graph.object_graph_def.nodes.add(), "is of the kind None"),
        (
            lambda graph: setattr(graph.asset_file_def[0], "filename", "../../secret"),
            "asset '../../secret' is not a file",
        ),
        (
            lambda graph: setattr(graph.asset_file_def[0], "filename", "/etc/passwd"),
            "asset '/etc/passwd' is not a file",
        ),
        (lambda graph: setattr(graph.asset_file_def[0], "filename", ".."), "asset '..' is not a file"),
        (lambda graph: graph.ClearField("object_graph_def"), "1 graphs, or one without objects"),
    ],
)
def test_other_ways_to_files_are_refused(edit, match, export):
    """The operations that are accepted in one place are refused in others."""
    edited(export, edit)
    refused(export, match)


def test_links_out_of_the_folder_are_refused(export, tmp_path):
    """Of the variables too."""
    (tmp_path / "outside").write_text("a\t1\n")
    (export / "assets" / "tokens.txt").unlink()
    (export / "assets" / "tokens.txt").symlink_to(tmp_path / "outside")
    refused(export, r"'assets/tokens.txt' is a link that leads out of the folder")


def test_a_second_graph_is_refused(export):
    """TensorFlow reads other files than saved_model.pb too."""
    (export / "saved_model.pbtxt").write_text("")
    refused(export, r"a second graph, saved_model.pbtxt")


@pytest.mark.parametrize("contents", [b"", b"\xff" * 50])
def test_damaged_graphs_are_refused(contents, export):
    """A file that is no message, or an empty one."""
    (export / "saved_model.pb").write_bytes(contents)
    refused(export, r"saved_model.pb can't be read|it has 0 graphs")


def test_variables_of_another_export_are_refused(export, tmp_path):
    """The card has the fingerprint of the variables."""
    other = write_export(tmp_path / "other", seed=1)
    shutil.copytree(other / "variables", export / "variables", dirs_exist_ok=True)
    refused(export, "variables of .* are not those that its card names")


def test_graph_of_another_export_is_refused(export, tmp_path):
    """The graph returns its own card."""
    other = write_export(tmp_path / "other", seed=1)
    shutil.copyfile(other / "saved_model.pb", export / "saved_model.pb")
    refused(export, "graph and the card of .* differ in name, tables, weights_sha256")


def test_trusted_is_true_or_false(original):
    """None could mean either."""
    with pytest.raises(ArgumentError, match=r"trusted must be True or False. Received: None"):
        ek.ExportedModel(original, trusted=None)


def test_fingerprint_covers_types_shapes_and_values(original):
    """In any order; a byte of one variable changes it."""
    one, two = np.zeros((2, 3), "float32"), np.array(7)
    assert weights_sha256([one, two]) == weights_sha256([two, one])
    others = [[one], [one.reshape(3, 2), two], [one.astype("float16"), two], [one, two + 1], [one.astype("int32"), two]]
    assert len({weights_sha256(each) for each in [[one, two], *others]}) == 6
    assert stored_sha256(original) == json.loads((original / "assets" / "embkeras.json").read_text())["weights_sha256"]


def test_unreadable_variables_are_refused(export):
    """The error names the folder."""
    shutil.rmtree(export / "variables")
    with pytest.raises(SavedModelError, match="1' has no variables that can be read"):
        stored_sha256(export)
