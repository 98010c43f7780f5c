"""What an import brings in: few packages for those who only ask a server, and every module can come first."""

import pytest

from tests.processes import ROOT, run_python

GOLDEN = ROOT / "saved_models" / "golden"
HEAVY = {"tensorflow", "keras", "pandas", "h5py", "scipy", "sklearn", "matplotlib", "pyarrow", "grpc", "google.protobuf"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import embkeras", HEAVY | {"numpy", "requests", "urllib3"}),
        ("from embkeras import Tokenizer, Vocabulary", HEAVY | {"requests", "urllib3"}),
        (f"import embkeras; embkeras.TextEncoder({str(GOLDEN)!r}).encode(['good'])", HEAVY | {"requests", "urllib3"}),
        (f"import embkeras; embkeras.ServingClient('http://127.0.0.1:1', encoder={str(GOLDEN)!r})", HEAVY),
    ],
    ids=["embkeras", "Vocabulary", "TextEncoder", "ServingClient"],
)
def test_asking_takes_few_packages(statement, absent):
    """None of the packages that cost time and memory (`benchmarks/import_cost.py`) is imported."""
    code = f"import sys; {statement}; print(sorted({absent!r} & set(sys.modules)))"
    assert run_python("-c", code).stdout.strip() == "[]"
