"""Objects that contain arrays compare by identity or define `==` themselves: NumPy has no single answer for arrays."""

import ast
from pathlib import Path

import pytest

import embkeras

PACKAGE = Path(embkeras.__file__).parent
ARRAYS = ("np.ndarray", "pd.DataFrame", "pd.Series", "keras.Model", "tf.Tensor")


def dataclasses_with_arrays():
    """Name -> whether it is safe to compare, for every dataclass with a field that holds an array."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", ())]
            made = next((each for each in decorators if each.startswith("dataclass")), None)
            if not isinstance(node, ast.ClassDef) or made is None:
                continue
            fields = [ast.unparse(each.annotation) for each in node.body if isinstance(each, ast.AnnAssign)]
            fields = [field for field in fields if not field.startswith("Callable")]
            if any(name in field for field in fields for name in ARRAYS):
                own = any(isinstance(each, ast.FunctionDef) and each.name == "__eq__" for each in node.body)
                found[f"{path.relative_to(PACKAGE)}:{node.name}"] = "eq=False" in made or own
    return found


CLASSES = dataclasses_with_arrays()


def test_classes_are_found():
    """AlignedMatrix and DriftReport among them."""
    assert {"vectors/aligned.py:AlignedMatrix", "drift/report.py:DriftReport"} <= set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_class_with_arrays_can_be_compared(name):
    """A generated `==` would raise NumPy's error about the truth value of an array."""
    assert CLASSES[name]
