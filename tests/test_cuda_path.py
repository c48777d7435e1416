"""On CUDA a step, a chunk of an evaluation and a sampled token wait for nothing: shown with fake tensors, no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from isoloss.errors import CompilerError
from isoloss.model.library import cxx_compiler

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What fake_cuda.py prints: a process of its own, for torch asks once whether there is CUDA."""
    if torch.version.cuda or sys.platform != "linux":
        pytest.skip("this is shown with the CPU build of torch on Linux")
    try:
        compiler = cxx_compiler()
    except CompilerError as error:
        pytest.skip(str(error))
    torch_folder, library = Path(torch.__file__).parent, tmp_path_factory.mktemp("cuda") / "fake_cuda.so"
    links = [f"-L{torch_folder}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch_folder}/lib"]
    flags = ["-std=c++20", "-shared", "-fPIC", f"-I{torch_folder}/include"]
    source = Path(__file__).with_name("fake_cuda.cpp")
    subprocess.run([compiler, *flags, "-o", str(library), str(source), *links], check=True, timeout=300)
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "tests.fake_cuda"]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_waits_for_the_host(found: dict[str, Any]) -> None:
    assert len(found["stacks"]) == 11
    assert {name: fault for name, fault in found["stacks"].items() if fault} == {}


def test_a_longer_evaluation_has_no_more_transfers(found: dict[str, Any]) -> None:
    in_one_chunk, in_many = found["transfers"]
    assert in_one_chunk == in_many > 0


def test_losses_and_checkpoints_come_to_the_host_without_a_wait(found: dict[str, Any]) -> None:
    block, *of_checkpoint = found["copies"]
    copy = ["pinned memory", "aten::copy_"]
    assert block == copy
    in_training, waited_for, in_thread, waits = of_checkpoint
    assert (in_training, waited_for) == ([], ["training"])
    assert in_thread == 2 * 4 * copy  # of each member weights, two moments and an average
    assert waits == 2 * ["FakeStream"]


def test_every_mistake_is_found(found: dict[str, Any]) -> None:
    assert len(found["mutants"]) == 29
    assert [name for name, fault in found["mutants"].items() if not fault] == []


def test_memory_is_that_of_tensors_on_cuda(found: dict[str, Any]) -> None:
    """Training computes it on the meta device, for which no compiler is needed."""
    on_cuda, on_meta = found["memory"]
    assert on_cuda == pytest.approx(on_meta, rel=0.02)
