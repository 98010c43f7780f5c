"""Looking into an export before TensorFlow loads it: a SavedModel can hold any operation, and loading it runs some.

`check_operations` reads `saved_model.pb` as data. Every operation, in the graph and in every function of its library, must
be one that computes on tensors or holds variables and tables in memory. Three kinds that touch files are accepted in the
one place where our own exports have them: saving and restoring, which loading in Python doesn't run, and reading a table
of tokens from a file of `assets/`. The list names what is allowed, so what a newer TensorFlow adds is refused.

This keeps a stranger's file from reading, writing, or running Python. It doesn't show who wrote the file, or that the
answers are any good.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from embkeras._checks import shown
from embkeras.errors import SavedModelError

# Public names of TensorFlow's operations, as in `tf.raw_ops`. None touches a file, a socket, Python, or another program.
_OPERATIONS = """
    Abs Acos Acosh Add AddN AddV2 All Angle Any ApproximateEqual ArgMax ArgMin AsString Asin Asinh Assert Atan Atan2 Atanh
    AvgPool AvgPool3D BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND Betainc BiasAdd BiasAddV1 Bincount Bitcast
    BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs BroadcastTo Bucketize Case Cast Ceil CheckNumerics CheckNumericsV2 Cholesky
    ClipByValue Complex ComplexAbs Concat ConcatOffset ConcatV2 Conj Const ControlTrigger Conv Conv2D Conv2DBackpropInput
    Conv3D Conv3DBackpropInputV2 Cos Cosh Cross Cumprod Cumsum CumulativeLogsumexp DecodeBase64 DecodeRaw DenseBincount
    DepthToSpace DepthwiseConv2dNative Diag DiagPart Digamma Div DivNoNan EditDistance Einsum Elu Empty EncodeBase64
    EnsureShape Enter Equal Erf Erfc Erfinv EuclideanNorm Exit Exp ExpandDims Expm1 FakeQuantWithMinMaxArgs
    FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2
    FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual GuaranteeConst Identity IdentityN If Igamma Igammac Imag
    InTopK InTopKV2 Inv Invert InvertPermutation IsFinite IsInf IsNan L2Loss LRN LeakyRelu LeftShift Less LessEqual Lgamma
    LinSpace ListDiff Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr LoopCond LowerBound MatMul MatrixBandPart
    MatrixDeterminant MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixInverse
    MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve MatrixTriangularSolve Max MaxPool MaxPool3D MaxPoolV2
    MaxPoolWithArgmax Maximum Mean Merge Min Minimum MirrorPad Mod Mul MulNoNan Multinomial Neg NextAfter NextIteration NoOp
    NotEqual NthElement OneHot OnesLike Pack Pad PadV2 ParallelConcat PartitionedCall Placeholder PlaceholderV2
    PlaceholderWithDefault Polygamma PopulationCount Pow Prod QuantizeAndDequantize QuantizeAndDequantizeV2
    QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 Qr RaggedBincount RaggedGather RaggedRange RaggedTensorFromVariant
    RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant Range Rank Real RealDiv Reciprocal ReduceJoin
    RegexFullMatch RegexReplace Relu Relu6 Reshape Reverse ReverseSequence ReverseV2 RightShift Rint Roll Round Rsqrt
    ScatterNd SegmentMax SegmentMaxV2 SegmentMean SegmentMin SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum SegmentSumV2
    Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size Slice Snapshot Softmax Softplus Softsign SpaceToBatchND
    SpaceToDepth SparseConcat SparseCross SparseCrossV2 SparseFillEmptyRows SparseReorder SparseReshape SparseSegmentMean
    SparseSegmentSqrtN SparseSegmentSum SparseSlice SparseSoftmax SparseTensorDenseAdd SparseTensorDenseMatMul SparseToDense
    Split SplitV Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile
    StaticRegexFullMatch StaticRegexReplace StopGradient StridedSlice StringFormat StringJoin StringLength StringLower
    StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucket StringToHashBucketFast StringToHashBucketStrong
    StringToNumber StringUpper Sub Substr Sum Switch Tan Tanh TensorScatterAdd TensorScatterMax TensorScatterMin
    TensorScatterSub TensorScatterUpdate Tile TopK TopKV2 Transpose TruncateDiv TruncateMod UnicodeDecode
    UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode Unique UniqueV2 UniqueWithCounts
    UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentJoin UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd
    UnsortedSegmentSum UpperBound Where While Xdivy Xlog1py Xlogy ZerosLike Zeta
    BlockLSTM BlockLSTMV2 CudnnRNN CudnnRNNV2 CudnnRNNV3 GRUBlockCell LSTMBlockCell
    EmptyTensorList TensorListConcat TensorListConcatLists TensorListConcatV2 TensorListElementShape TensorListFromTensor
    TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListReserve
    TensorListResize TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem
    TensorListSplit TensorListStack
    AssignAddVariableOp AssignSubVariableOp AssignVariableOp DestroyResourceOp DisableCopyOnRead ReadVariableOp ResourceGather
    ResourceGatherNd ResourceScatterAdd ResourceScatterUpdate VarHandleOp VarIsInitializedOp VariableShape
    AnonymousHashTable AnonymousMutableHashTable HashTableV2 InitializeTableV2 LookupTableExportV2 LookupTableFindV2
    LookupTableImportV2 LookupTableInsertV2 LookupTableRemoveV2 LookupTableSizeV2 MutableDenseHashTableV2 MutableHashTableV2
    RandomGamma RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt StatelessMultinomial
    StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomNormal
    StatelessRandomNormalV2 StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2
    StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessShuffle StatelessTruncatedNormal
    StatelessTruncatedNormalV2 TruncatedNormal
    """
ALLOWED = frozenset(_OPERATIONS.split())
SAVING = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"})
READING = "InitializeTableFromTextFileV2"
# What the objects of an export may be when they are loaded: a class that a program registered for another name would run
# its own code.
_KINDS = {
    "user_object",
    "asset",
    "function",
    "variable",
    "bare_concrete_function",
    "constant",
    "resource",
    "captured_tensor",
}
_CLASSES = {
    "_generic_user_object", "signature_map", "trackable_list_wrapper", "trackable_dict_wrapper", "trackable_tuple_wrapper",
}  # fmt: skip
_REGISTERED = {"", "tf.TrackableConstant", "tf.StaticHashTable"}
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # ends the key of a variable in a checkpoint


def check_operations(folder: Path) -> None:
    """Refuse an export whose graph holds an operation that could touch files, the network or Python.

    Args:
        folder: of one version.

    Raises:
        SavedModelError: such an operation, with its function; a graph, an object or a file that our exports don't have.
    """
    try:
        _check_files(folder)
        graph = _meta_graph(folder)
        functions = {function.signature.name: function for function in graph.graph_def.library.function}
        if len(functions) < len(graph.graph_def.library.function):
            raise _Refused("two functions share a name")
        _check_objects(graph)
        for where, nodes in _bodies(graph):
            for node in nodes:
                _check_node(node, where)
        _check_saving(graph, functions)
        _check_reading(graph, functions)
    except _Refused as reason:
        raise SavedModelError(
            f"{str(folder)!r} is not loaded, because trusted=False: {reason}. If you trust whoever wrote it, pass "
            f"trusted=True."
        ) from None


class _Refused(Exception):
    """Why an export is not loaded."""


def _check_files(folder: Path) -> None:
    """Every file lies inside the folder, and the graph is the one file that is read here."""
    for name in ("saved_model.pbtxt", "saved_model.cpb"):
        if (folder / name).exists():
            raise _Refused(f"it has a second graph, {name}")
    whole = folder.resolve()
    for path in folder.rglob("*"):
        if not path.resolve().is_relative_to(whole):
            raise _Refused(f"{path.relative_to(folder).as_posix()!r} is a link that leads out of the folder")


def _meta_graph(folder: Path) -> Any:
    """The message with the graph, its functions and its objects."""
    try:
        message = saved_model_message(folder)
    except (DecodeError, OSError) as error:
        raise _Refused(f"saved_model.pb can't be read ({error})") from error
    if len(message.meta_graphs) != 1 or not message.meta_graphs[0].HasField("object_graph_def"):
        raise _Refused(f"it has {len(message.meta_graphs)} graphs, or one without objects, instead of one with objects")
    return message.meta_graphs[0]


def saved_model_message(folder: Path) -> Any:
    """The contents of a SavedModel's `saved_model.pb`."""
    pool = tf.compat.v1.MetaGraphDef.DESCRIPTOR.file.pool  # the message SavedModel has no public name of its own
    message = GetMessageClass(pool.FindMessageTypeByName("tensorflow.SavedModel"))()
    message.ParseFromString((folder / "saved_model.pb").read_bytes())
    return message


def _bodies(graph: Any) -> Iterator[tuple[str, Iterable[Any]]]:
    """Nodes of the graph and of each function; functions that are called in functions, and gradients, lie in the library."""
    yield "", graph.graph_def.node
    for function in graph.graph_def.library.function:
        yield function.signature.name, function.node_def


def _check_node(node: Any, where: str) -> None:
    known = node.op in ALLOWED or (where and (node.op in SAVING or node.op == READING))
    if not known:
        place = f"function {where!r}" if where else "the graph"
        raise _Refused(
            f"the operation {shown(node.op)} in {place} (node {shown(node.name)}) is not among those that only compute"
        )


def _check_objects(graph: Any) -> None:
    """Objects of the kinds that our exports have, and assets that are files of the folder `assets`."""
    for place, each in enumerate(graph.object_graph_def.nodes):
        kind = each.WhichOneof("kind")
        name = each.user_object.identifier if kind == "user_object" else ""
        if kind not in _KINDS or each.registered_name not in _REGISTERED or (name and name not in _CLASSES):
            what = each.registered_name or name or kind
            raise _Refused(f"its object {place} is of the kind {shown(what)}")
    for asset in graph.asset_file_def:
        if Path(asset.filename).name != asset.filename or asset.filename in ("", ".", ".."):
            raise _Refused(f"its asset {shown(asset.filename)} is not a file of the folder 'assets'")


def _called(nodes: Iterable[Any]) -> Iterator[str]:
    """The functions that nodes refer to."""
    for node in nodes:
        for value in node.attr.values():
            for function in (value.func, *value.list.func):
                yield function.name
                yield from _called_by_attributes(function)


def _called_by_attributes(function: Any) -> Iterator[str]:
    """The functions in the attributes of a reference to a function."""
    for value in function.attr.values():
        for inner in (value.func, *value.list.func):
            yield inner.name
            yield from _called_by_attributes(inner)


def _holding(functions: dict[str, Any], operations: Iterable[str]) -> dict[str, Any]:
    """The functions that hold one of these operations."""
    wanted = set(operations)
    return {name: each for name, each in functions.items() if any(node.op in wanted for node in each.node_def)}


def _check_saving(graph: Any, functions: dict[str, Any]) -> None:
    """Saving and restoring are no part of anything that can be asked, and of nothing that runs when Python loads the export.

    Only the saver of the graph calls them, with the file name that the server gives it.
    """
    saver = graph.saver_def
    savers = {name.split(":")[0] for name in (saver.save_tensor_name, saver.restore_op_name)}
    elsewhere = [node for node in graph.graph_def.node if node.name not in savers]
    called = set(_called(elsewhere)).union(*(_called(each.node_def) for each in functions.values()))
    for name in _holding(functions, SAVING):
        if name in called or name in graph.object_graph_def.concrete_functions:
            raise _Refused(f"function {name!r} saves or restores files, and not for the saver of the graph alone")
    given = saver.filename_tensor_name.split(":")[0]
    for node in graph.graph_def.node:
        if node.name in savers and (not node.input or node.input[0] != given):
            raise _Refused(f"its saver (node {shown(node.name)}) takes another file than the one it is given")
        if node.name == given and node.op != "Placeholder":
            raise _Refused(f"its saver has a file name of its own (node {shown(node.name)})")


def _check_reading(graph: Any, functions: dict[str, Any]) -> None:
    """Tables are read from assets alone: the file name is an argument of the function, and that argument is an asset."""
    objects = graph.object_graph_def
    inside = set().union(*(_called(each.node_def) for each in functions.values()))
    for name, function in _holding(functions, [READING]).items():
        if name in inside or name not in objects.concrete_functions:
            raise _Refused(f"function {name!r} reads a file, and not to fill a table from an asset")
        arguments = [argument.name for argument in function.signature.input_arg]
        bound = list(objects.concrete_functions[name].bound_inputs)
        for node in (node for node in function.node_def if node.op == READING):
            place = arguments.index(node.input[1]) if len(node.input) > 1 and node.input[1] in arguments else -1
            place -= len(arguments) - len(bound)  # what is bound comes behind the arguments of the caller
            if not 0 <= place < len(bound) or objects.nodes[bound[place]].WhichOneof("kind") != "asset":
                raise _Refused(f"function {name!r} reads a file that is not an asset (node {shown(node.name)})")


def weights_sha256(values: Iterable[np.ndarray]) -> str:
    """SHA-256 over the stored variables in any order, each by its type, shape and bytes, as 64 hexadecimal digits."""
    digests = []
    for value in values:
        digest = hashlib.sha256(f"{value.dtype.name} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        digests.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode("ascii")).hexdigest()


def stored_sha256(folder: Path) -> str:
    """`weights_sha256` of the variables in the checkpoint of an export.

    Raises:
        SavedModelError: the checkpoint is missing or damaged.
    """
    try:
        reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
        types = reader.get_variable_to_dtype_map()
        keys = [key for key, dtype in types.items() if key.endswith(VALUE) and dtype != tf.string]
        return weights_sha256(np.asarray(reader.get_tensor(key)) for key in keys)
    except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
        raise SavedModelError(f"{str(folder)!r} has no variables that can be read: {error}") from error
