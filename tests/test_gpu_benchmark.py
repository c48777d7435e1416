"""The GPU benchmark runs where there are torch, numpy, pydantic, safetensors, filelock, what they need and no more."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
THERE = ("torch", "numpy", "pydantic", "safetensors", "filelock")
ABSENT = ("polars", "altair", "ruamel", "rich", "tyro", "scipy", "platformdirs", "tokenizers", "vl_convert", "pandas")
SECTIONS = ("machine", "stack and solo", "resume", "group1 steps", "where time goes", "whole group1")


def needed(names: tuple[str, ...]) -> dict[str, Distribution]:
    """These packages that are installed, and those that they require."""
    found: dict[str, Distribution] = {}
    waiting = [*names]
    while waiting:
        name = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        if name in found:
            continue
        found[name] = package
        required = [each for each in package.requires or () if "extra ==" not in each]
        waiting += [match[0] for each in required if (match := re.match(r"[\w.-]+", each))]
    return found


def test_it_runs_on_a_bare_image(tmp_path: Path) -> None:
    bare = tmp_path / "packages"
    bare.mkdir()
    for package in needed(THERE).values():
        for top in {Path(file.parts[0]) for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            (bare / top).symlink_to(str(package.locate_file(top)))
    (bare / "check.py").write_text(
        "import importlib.util, sys\n"
        f"assert [name for name in {ABSENT} if importlib.util.find_spec(name)] == []\n"
        "from benchmarks.gpu import main\nmain()\n"
    )
    paths = os.pathsep.join(map(str, (bare, ROOT / "src", ROOT)))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    out = tmp_path / "gpu.jsonl"
    command = [sys.executable, "-S", "-m", "check", "--device", "cpu", "--tiny", "--out", str(out), "--only", *SECTIONS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines: dict[str, Any] = {line["section"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert list(lines) == [*SECTIONS]
    assert [line for line in lines.values() if "error" in line] == []
    assert lines["stack and solo"]["passed"] and lines["resume"]["passed"]
    assert lines["whole group1"]["runs"] == 8 and 0 < lines["whole group1"]["aggregate_mfu"] < 1
    assert lines["where time goes"]["launches_a_step"] > 100


def test_a_section_that_fails_or_has_no_time_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import gpu

    def fails(_: gpu.Bench) -> gpu.Line:
        raise RuntimeError("CUDA error")

    found = [("first", 1.0, fails), ("second", 1000.0, fails), ("third", 1.0, lambda _: {"figure": 3})]
    monkeypatch.setattr(gpu, "sections", lambda _: iter(found))
    gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path / "gpu.jsonl")])
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [line["section"] for line in lines] == ["first", "second", "third"]
    assert lines[0]["error"] == "RuntimeError: CUDA error" and lines[1]["left_out"].startswith("may take 1000 s")
    assert lines[2]["figure"] == 3 and len(capsys.readouterr().out.splitlines()) == 3
