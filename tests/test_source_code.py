"""Nothing in the package runs code that comes from data or weights: each file's syntax tree is looked through."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "segshift"

FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.execl", "os.execlp", "os.spawnv", "os.spawnl", "os.fork"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "pickle.dump", "pickle.dumps"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.UnsafeLoader"),
    *("torch.save", "torch.jit.load", "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.package"),
    *("tempfile.mktemp", "shutil.unpack_archive"),
}
FORBIDDEN_MODULES = {
    *("marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code", "pty", "imp", "ctypes", "cffi", "dbm"),
    *("urllib", "requests", "httpx", "ftplib", "telnetlib", "xmlrpc", "smtplib"),
}
"""What runs code or asks the network. timm alone downloads, where a recipe asks for pretrained weights."""


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`np.load` as "numpy.load", by the imports of the file; empty for what is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value, names)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def imported(tree: ast.AST) -> dict[str, str]:
    """Name in the file -> what it stands for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of a file."""
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((node.lineno, f"import {m}") for m in modules if m.partition(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Load):
            # A forbidden function is not to be passed on either.
            name = dotted(node, names)
            if name in FORBIDDEN_CALLS:
                yield node.lineno, name
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, fault) for fault in faults_of_call(node, dotted(node.func, names), names))


def faults_of_call(call: ast.Call, name: str, names: dict[str, str]) -> Iterator[str]:
    given = {word.arg: word.value for word in call.keywords}

    def says(word: str, value: object) -> bool:
        return word in given and isinstance(given[word], ast.Constant) and given[word].value is value

    if name == "torch.load" and not says("weights_only", True):
        yield "torch.load without weights_only=True"
    if name == "numpy.load" and not says("allow_pickle", False):
        yield "numpy.load without allow_pickle=False"
    if name == "importlib.import_module" and not isinstance(call.args[0], ast.Constant):
        yield "import of a computed name"
    if "shell" in given and not says("shell", False):
        yield "a shell"
    if name.startswith("subprocess."):
        first = call.args[0] if call.args else None
        program = first.elts[0] if isinstance(first, ast.List) and first.elts else None
        if program is None or dotted(program, names) != "sys.executable":
            yield "a process that is not this program again"
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("extractall", "extract"):
        yield "an archive is unpacked"
    if name == "jinja2.Environment" and not says("autoescape", True):
        yield "a page whose names are not escaped"


def found_in(text: str) -> list[str]:
    return [fault for _, fault in faults(ast.parse(text))]


FILES = sorted(SOURCE.rglob("*.py"))


ALLOWED = {
    "own_module.py": "import runpy",  # FILE.py:FUNCTION, which the user names on the command line, each time anew
    "extras.py": "import of a computed name",  # optional libraries; the next test sees to their names
}


def test_optional_libraries_are_named_in_the_code():
    calls = [
        node
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "optional"
    ]
    assert len(calls) >= 3
    assert all(isinstance(call.args[0], ast.Constant) for call in calls)


def test_no_file_runs_code_from_data_or_weights():
    assert len(FILES) > 100
    found = [
        f"{file.relative_to(SOURCE)}:{line}: {fault}"
        for file in FILES
        for line, fault in faults(ast.parse(file.read_text(encoding="utf-8")))
        if ALLOWED.get(str(file.relative_to(SOURCE))) != fault
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("eval(x)", "eval"),
        ("run = exec", "exec"),
        ("from os import system as s\ns(x)", "os.system"),
        ("import pickle as p\np.load(f)", "pickle.load"),
        ("from pickle import loads\nloads(b)", "pickle.loads"),
        ("import marshal", "import marshal"),
        ("from urllib.request import urlopen", "import urllib.request"),
        ("import torch\ntorch.load(f)", "torch.load without weights_only=True"),
        ("import torch as t\nt.load(f, weights_only=safe)", "torch.load without weights_only=True"),
        ("import numpy as np\nnp.load(f)", "numpy.load without allow_pickle=False"),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", "numpy.load without allow_pickle=False"),
        ("import yaml\nyaml.load(f, Loader=l)", "yaml.load"),
        ("import importlib\nimportlib.import_module(name)", "import of a computed name"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "a shell"),
        ("import subprocess\nsubprocess.run(['ls'])", "a process that is not this program again"),
        ("import tarfile\ntarfile.open(f).extractall()", "an archive is unpacked"),
        ("archive.extractall(folder)", "an archive is unpacked"),
        ("import jinja2\njinja2.Environment()", "a page whose names are not escaped"),
    ],
)
def test_what_is_forbidden_is_found(text, fault):
    assert fault in found_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "import re\nre.compile(x)",
        "import torch\ntorch.load(f, weights_only=True)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import yaml\nyaml.safe_load(f)",
        "import subprocess, sys\nsubprocess.Popen([sys.executable, *words])",
        "from importlib.resources import files\nfiles('segshift')",
        "import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    pass",
    ],
)
def test_what_is_harmless_is_not(text):
    assert found_in(text) == []
