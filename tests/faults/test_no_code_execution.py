"""What is read is data: no line of isoloss runs what it reads, and reading hostile files runs and writes nothing.

Nor does a folder that isoloss is started in lend it a module.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import isoloss

pytestmark = pytest.mark.promise(12, "no code executes input: checked in the source, and by an audit hook")

SOURCE = Path(isoloss.__file__).parent
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "dbm", "code", "codeop"}
NAMES = {"eval", "exec", "compile", "__import__", "execfile", "input"}
ATTRIBUTES = {
    *("torch.load", "torch.jit.load", "torch.hub.load", "torch.package", "torch.save"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "numpy.load", "np.load", "np.fromfile", "pl.read_ipc"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "os.startfile", "subprocess.getoutput"),
    *("zipfile.extractall", "archive.extract", "archive.extractall", "tarfile.open", "shutil.unpack_archive"),
}
ALLOWED = {
    # Written for nanoGPT, whose format it is; never read.
    ("execution/export.py", "torch.save"),
    ("execution/foreign_tokenizers.py", "pickle"),
    # Files are read out of an archive whose SHA-256 is known; none is written.
    ("data/archives.py", "tarfile.open"),
}
PROCESSES = {
    "data/download.py": "pip, to download a wheel whose SHA-256 is known",
    "execution/slurm_queue.py": "SLURM's own commands",
    "model/library.py": "the compiler of the fast kernels",
    "report/pdf.py": "an installed Chromium, to print the page",
    "store/folder_check.py": "this Python, to try a lock that is held",
}
"""Who starts programs, none of them named by what is read. Workers and ranks are isoloss's own, and so is what their
pipes carry (multiprocessing pickles there), what Ray sends them, and what submitit keeps in the cache for SLURM."""


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute or a name, else nothing."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{dotted(value)}.{attr}"
        case _:
            return ""


def distrusted(source: str, place: str) -> list[str]:
    """What of a module could run what it reads."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                whole = [n.name for n in names if n.name.partition(".")[0] in MODULES]
                found += [f"import {name}" for name in whole if (place, name) not in ALLOWED]
                found += [f"import {n.name}" for n in names if n.name == "subprocess" and place not in PROCESSES]
            case ast.ImportFrom(module=module, names=names):
                whole = [f"{module}.{n.name}" for n in names]
                found += [f"from {name}" for name in whole if str(module).partition(".")[0] in MODULES | {"subprocess"}]
                found += [f"from {name}" for name in whole if name in ATTRIBUTES]
            case ast.Call(func=ast.Name(id=name)) if name in NAMES:
                found.append(name)
            case ast.Call(func=function) if dotted(function) in {"YAML", "ruamel.yaml.YAML"}:
                kinds = [k.value for k in node.keywords if k.arg == "typ"]
                found += [f"YAML of type {ast.unparse(k)}" for k in kinds if ast.unparse(k) not in ("'safe'", "'rt'")]
            case ast.Attribute() if dotted(node) in ATTRIBUTES and (place, dotted(node)) not in ALLOWED:
                found.append(dotted(node))
            case ast.keyword(arg="shell" | "allow_pickle", value=value) if ast.unparse(value) != "False":
                found.append(f"{node.arg}={ast.unparse(value)}")
            case _:
                pass
    return found


def test_no_line_runs_what_it_reads() -> None:
    modules = sorted(SOURCE.rglob("*.py"))
    assert len(modules) > 100
    found = {path: distrusted(path.read_text(), path.relative_to(SOURCE).as_posix()) for path in modules}
    assert not {path: lines for path, lines in found.items() if lines}


def test_pickle_is_written_and_never_read() -> None:
    source = (SOURCE / "execution/foreign_tokenizers.py").read_text()
    used = {dotted(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("pickle.")} == {"pickle.dumps"}


def test_what_could_run_is_seen() -> None:
    for line in (
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "eval('1')",
        "exec('1')",
        "yaml.load(text)",
        "YAML(typ='unsafe')",
        "import subprocess",
        "f(shell=True)",
        "np.load('x')",
        "f(allow_pickle=True)",
        "os.system('x')",
        "torch.save(x)",
    ):
        assert distrusted(line, "x.py"), line


def test_reading_hostile_files_runs_nothing_and_writes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.audit_hook", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["reads"] > 50
    assert found["errors"] > 50
    assert found["forbidden"] == []
    assert found["probes"] == ["exec", "import", "open", "os.system", "pickle.find_class", "subprocess.Popen"]
    assert not list(tmp_path.rglob("pwned"))


@pytest.fixture
def strange_folder(tmp_path: Path) -> Path:
    """A folder with a module by every name that a program may import, each of which leaves its name in `imported`."""
    folder = tmp_path / "strange"
    folder.mkdir()
    leave_name = f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__ + ' ')"
    for name in {*sys.stdlib_module_names, "pip", "isoloss", "torch", "numpy", "sitecustomize", "usercustomize"}:
        (folder / f"{name}.py").write_text(leave_name)
    return folder


FROM_WHEEL = "from isoloss.data import download; download.fetch_from_wheel('no-such==1.0', '', '', 1)"


@pytest.mark.promise(12, "a working directory with a module of every imported name: none is imported")
@pytest.mark.parametrize("program", ["workers", "pip"])
def test_nothing_is_imported_from_the_folder_it_is_started_in(
    study: Path, tmp_path: Path, strange_folder: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    script = str(Path(sys.executable).with_name("isoloss"))
    run = [script, "run", str(study), "--out", str(tmp_path / "out"), "--workers", "1", "--device", "cpu"]
    command = run if program == "workers" else [sys.executable, "-P", "-c", FROM_WHEEL]
    done = subprocess.run(command, cwd=strange_folder, capture_output=True, text=True, timeout=120)
    imported = tmp_path / "imported"
    assert not imported.exists(), imported.read_text()
    if program == "workers":
        assert done.returncode == 0, done.stderr
    else:
        assert "pip download no-such==1.0: ERROR: No matching distribution" in done.stderr
