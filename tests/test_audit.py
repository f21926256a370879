"""`make audit` passes only where every pinned version was looked up, and none is known to be vulnerable."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def audit():
    spec = spec_from_file_location("audit", ROOT / "tools" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOUND = {"name": "torch", "version": "2.0", "vulns": []}
BAD = {"name": "pillow", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}]}
UNKNOWN = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited: own (1)"}


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        ([SOUND], 0, r"^audit: 1 of 1 versions looked up \(pypi\), 0 known vulnerabilities$"),
        ([SOUND, BAD], 1, r"^pillow 1\.0: PYSEC-1, fixed in 1\.1, 2\.0\naudit: 2 of 2 .*, 1 known vulnerabilities$"),
        ([SOUND, UNKNOWN], 2, r"^audit: 1 of 2 .*\naudit: not done: 1 versions are unknown to pypi: own$"),
        ([BAD, UNKNOWN], 1, r"^pillow 1\.0: PYSEC-1.*\naudit: 1 of 2 .*\naudit: not done: 1 versions .*: own$"),
        ([UNKNOWN], 2, r"^audit: not done: pypi knows none of 1 versions; .*$"),
        ([], 2, r"^audit: not done: pypi knows none of 0 versions; .*$"),
    ],
)
def test_what_is_said_and_whether_it_passes(audit, found, status, said):
    text, found_status = audit.judged(found, len(found), "pypi")
    assert re.search(said, text)
    assert found_status == status


def test_a_service_that_cannot_be_reached_is_one_line(audit, capsys, monkeypatch):
    talk = "import sys; print('Traceback', file=sys.stderr); sys.exit('ConnectionError: no such host')"
    monkeypatch.setattr(audit, "_command", lambda _service: [sys.executable, "-c", talk])
    assert audit.main() == 2
    said = capsys.readouterr().out
    assert said.startswith(
        "audit: not done: pip-audit or its service (pypi) cannot be reached: ConnectionError: no such"
    )
    assert said.count("\n") == 1


def test_constraints_are_names_and_versions_alone():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line)] == []
    assert len({line.partition("==")[0] for line in lines}) == len(lines)
    assert any(line.startswith("pip-audit==") for line in lines)
