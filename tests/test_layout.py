"""The package follows the design: floors, public names, private names of others, no TensorFlow before it is needed."""

import ast
import functools
import re
from pathlib import Path

import pytest

import embkeras
from tests.processes import run_python

PACKAGE = Path(embkeras.__file__).parent
FLOORS = {  # room, or module at the top -> floor
    "errors": 0,
    "_checks": 1,
    "_files": 2,
    "_arrays": 2,
    "_mapped": 2,
    "_progress": 2,
    "_registration": 2,
    "_threads": 2,
    "keras_compat": 2,
    "text": 3,
    "vectors": 4,
    "drift": 5,
    "tables": 5,
    "encoders": 6,
    "training": 7,
    "serving": 7,
    "experiments": 8,
    "app": 9,
    "__main__": 10,
}
DESIGN_NAMES = {
    "AlignedMatrix KeyedVectors Vocabulary align load_vectors save_vectors",
    "build_embedding build_classifier unfreeze_at gradual_unfreeze TrainabilitySchedule Phase RowWiseAdam",
    "DriftMonitor drift_report propagate_drift compare_strategies export_saved_model check_saved_model errors",
    "plot_drift plot_comparison plot_coverage",
}
BESIDES = {"DriftReport", "ExportedModel", "PretrainedEmbedding", "Tokenizer", "plot_training"}
BESIDES |= {"learning_curve", "plot_learning_curve"}
BESIDES |= {"PretrainedEncoder", "build_encoder_classifier", "build_encoder_regressor", "build_encoder_tagger"}
BESIDES |= {"build_sentence_encoder", "encode_tagged", "load_pretrained", "vectors_from_encoder"}
BESIDES |= {"SpanAnswer", "SpanExample", "SpanWindows", "build_span_model", "decode_spans", "encode_spans"}
BESIDES |= {"load_squad", "squad_scores"}
BESIDES |= {"enable_adapters", "load_tuned", "save_tuned", "use_adapters"}
BESIDES |= {"PretrainedDecoder", "encode_instructions", "export_decoder", "generate", "load_decoder", "perplexity"}
BESIDES |= {"LinearDecay", "enable_lora", "layerwise_rates", "merge_lora"}
BESIDES |= {
    "BatchScorer",
    "CarriedDrift",
    "ServingClient",
    "Strategy",
    "TextEncoder",
    "TokenCounts",
    "WordDropout",
    "change_vocabulary",
    "combine_embeddings",
    "convert_saved_model",
    "unfreeze_rows",
}
BESIDES |= {"fit_class_means", "fit_on_frozen", "race_strategies"}
BESIDES |= {"MultiWorkerFit", "MultiWorkerModel"}
BESIDES |= {"DataProfile", "data_profile", "report_html", "save_report"}
BESIDES |= {"ResumableBackup", "RowWiseAdagrad", "RowWiseAdamW", "RowWiseSGD"}
HEAVY = {"tensorflow", "keras", "matplotlib"}
# Private names of Keras and TensorFlow. Only keras_compat may use them, on `self` too.
# Of the rooms that need TensorFlow, the modules that don't.
LIGHT = {
    f"experiments.{name}" for name in ("duplicates", "markup", "page", "profile", "statistics", "suspects", "words")
}
KERAS_PRIVATE = {
    "_autocast",
    "_direction",
    "_embeddings",
    "_eval_epoch_iterator",
    "_functional",
    "_functions",
    "_get",
    "_h5_entry_group",
    "_initial_epoch",
    "_inputs",
    "_iterations",
    "_kernel",
    "_layers",
    "_learning_rate",
    "_make_function",
    "_maybe_symbolic_build",
    "_model_variables_moving_average",
    "_nodes_by_depth",
    "_run_through_graph",
    "_track_variable",
    "_tracker",
    "_trainable_variables",
    "_untrack_variable",
    "_var_key",
    "_variables",
}
NAMEDTUPLE = {"_asdict", "_fields", "_make", "_replace"}  # public in spite of the underscore


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Dotted name below embkeras -> its syntax tree."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            found[name] = ast.parse(path.read_text("utf-8"))
    return found


def imports_of(tree: ast.Module) -> set[str]:
    """Dotted names below embkeras that a module imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "embkeras":
            below = node.module.removeprefix("embkeras").removeprefix(".")
            found |= {below} if below else {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("embkeras.") for alias in node.names if alias.name.startswith("embkeras.")
            }
    return found


def room(module: str) -> str:
    """The first part of a dotted name."""
    return module.split(".")[0]


def test_every_module_is_on_a_floor():
    """A new room needs a floor."""
    assert {room(name) for name in modules()} <= set(FLOORS)


def test_contributing_shows_the_floors():
    """Its table has each room and module, on the floor that is checked here."""
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE)
    shown = {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)/?`", names)}
    assert shown | {"__main__": FLOORS["__main__"]} == FLOORS


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name):
    """A module imports from lower floors and from its own room only."""
    for imported in imports_of(modules()[name]):
        pair = room(name), room(imported)
        assert pair[0] == pair[1] or FLOORS[pair[1]] < FLOORS[pair[0]], f"{name} imports {imported}"


def test_imports_make_no_circle():
    """Modules can be put in an order in which each imports only earlier ones."""
    left = {name: imports_of(tree) & set(modules()) - {name} for name, tree in modules().items()}
    while left:
        ready = [name for name, needs in left.items() if not needs & set(left)]
        assert ready, f"a circle among {sorted(left)}"
        for name in ready:
            del left[name]


@pytest.mark.parametrize(
    "name", sorted(name for name in modules() if room(name) in ("text", "vectors", "drift") or name in LIGHT)
)
def test_lower_rooms_need_no_tensorflow(name):
    """Text, vectors, drift and LIGHT import neither TensorFlow nor Keras; only drift.plots imports matplotlib."""
    roots = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])
    assert not roots & (HEAVY - ({"matplotlib"} if name == "drift.plots" else set()))
    for imported in imports_of(modules()[name]) & set(modules()):
        assert room(imported) not in ("tables", "encoders", "training", "serving", "experiments") or imported in LIGHT


def own_names(tree: ast.Module) -> set[str]:
    """Names that a module itself defines: functions, classes, variables and attributes."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


def foreign_private_names(tree: ast.Module) -> set[str]:
    """Private names of other objects that a module uses: as an attribute, as a string, or by import.

    An underscore name is a module's own if the module defines it and Keras doesn't.
    """
    found, own = set(), own_names(tree) | NAMEDTUPLE
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            on_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if node.attr in KERAS_PRIVATE or not (on_self or node.attr in own):
                found.add(ast.unparse(node))
        elif isinstance(node, ast.Constant) and node.value in KERAS_PRIVATE:
            found.add(node.value)
        imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            imported = [ast.unparse(node).replace("tf.", "tensorflow.", 1)]
        found |= {name for name in imported if name.startswith(("keras.src", "tensorflow.python"))}
    return found


@pytest.mark.parametrize("name", sorted(name for name in modules() if room(name) != "keras_compat"))
def test_private_names_stay_in_keras_compat(name):
    """Only keras_compat uses private names of Keras and TensorFlow; elsewhere a private name is the module's own."""
    assert not foreign_private_names(modules()[name])


@pytest.mark.parametrize(
    "code",
    [
        "import keras.src.ops",
        "from tensorflow.python import eager",
        "tf.python.eager",
        "layer._tracker.unlock()",
        "getattr(metric, '_direction', None)",
        "self._iterations",
        "other._anything",
    ],
)
def test_private_names_are_found(code):
    """Each way to reach a private name is noticed."""
    assert foreign_private_names(ast.parse(code))


@pytest.mark.parametrize("name", sorted(name for name in modules() if room(name) not in ("app", "__main__")))
def test_library_names_no_command_line_flags(name):
    """Errors of the library name arguments (`overwrite=True`); the commands turn them into their flags."""
    if name in ("serving.server_files", "serving.runtimes"):
        pytest.skip("flags of another program")
    texts = [node.value for node in ast.walk(modules()[name]) if isinstance(node, ast.Constant)]
    assert not [text for text in texts if isinstance(text, str) and re.search(r"(^|[\s(`'\"])--[a-z]", text)]


def test_type_checkers_see_every_public_name():
    """The imports for editors and type checkers name the same objects as `__all__`."""
    assert set(embkeras.__all__) == {"errors", *embkeras._MODULE_OF}
    imports = [
        node for node in ast.walk(ast.parse(Path(embkeras.__file__).read_text("utf-8"))) if isinstance(node, ast.If)
    ]
    aliases = {
        alias.asname: (node.module, alias.name)
        for node in ast.walk(imports[0])
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert aliases == {
        name: (f"embkeras.{embkeras._MODULE_OF[name]}", name) for name in embkeras.__all__ if name != "errors"
    }


def test_public_names_are_those_of_the_design():
    """`__all__` is the design's list, plus what is listed here."""
    design = {name for line in DESIGN_NAMES for name in line.split()}
    assert set(embkeras.__all__) == design | BESIDES


@pytest.mark.parametrize("name", embkeras.__all__)
def test_public_name_is_there_and_documented(name):
    """Every public name can be imported and has a docstring."""
    assert getattr(embkeras, name).__doc__


def test_unknown_name_is_an_attribute_error():
    """A misspelt name raises what Python raises."""
    with pytest.raises(AttributeError, match="module 'embkeras' has no attribute 'load_vector'"):
        _ = embkeras.load_vector


@pytest.mark.parametrize(
    "statement", ["import embkeras", "from embkeras.app.arguments import parser; parser().format_help()"]
)
def test_import_and_help_load_no_tensorflow(statement):
    """`import embkeras` and `--help` load no heavy package."""
    code = f"import sys; {statement}; print(sorted({HEAVY!r} & set(sys.modules)))"
    assert run_python("-c", code).stdout.strip() == "[]"


def test_tests_start_processes_in_one_place():
    """A process without a time limit hangs the suite; a forked one may, once TensorFlow has been imported."""
    bare = re.compile(
        r"\bsubprocess\.(run|Popen|call|check_\w+)\(|\bos\.(fork|posix_spawn|system)|\bpreexec[_]fn|import[ ]multiprocessing"
    )
    tests = Path(__file__).parent
    found = {path.relative_to(tests).as_posix() for path in tests.rglob("*.py") if bare.search(path.read_text("utf-8"))}
    assert found == {"processes.py", "test_processes.py"}
