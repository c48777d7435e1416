"""Parts of one's own: what docs/plugins.md says is done, and they are what built-in parts are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from isoloss.cli import run_command_line
from isoloss.cli.verbs import study_of
from isoloss.data.token_files import Tokens
from isoloss.errors import ConfigError
from isoloss.execution.executor import NullListener
from isoloss.execution.options import RunOptions
from isoloss.execution.processes import Processes
from isoloss.execution.study import run_study
from isoloss.model import gpt
from isoloss.model.functions import Kernels
from isoloss.model.generate import Sampling, generate
from isoloss.model.native import Native
from isoloss.model.parameters import Parameters, init_flat, layout_of
from isoloss.model.parts import ForwardPass
from isoloss.model.parts.attention import _attend
from isoloss.report.chapters.method import method_chapter
from isoloss.report.snapshot import take_snapshot
from isoloss.store.layout import StudyPaths
from isoloss.store.merging import merge_studies
from isoloss.store.revisions import revise
from isoloss.store.tables import load_study
from isoloss.study import parts, plugins
from isoloss.study.compute import params_total
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.plugins import use_plugin, with_plugins
from isoloss.study.study import Study
from isoloss.study.studyfile import parse_study
from isoloss.training import checkpoint
from tests.fake_studies import fake_study
from tests.recording import recorded

Make = Callable[..., RunConfig]
PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"
COPIES = """
import torch
import torch.nn.functional as F
from isoloss import Mlp, Norm, Optimizer, Position
from isoloss.training.optimizers import sgd

def rope(positions_T, channels):
    angles_TxD = positions_T[:, None] * 10000.0 ** -(torch.arange(0, channels, 2) / channels)
    return torch.stack((angles_TxD.cos(), angles_TxD.sin()))

def rms(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)

def glu(x):
    gate, hidden = x.chunk(2, dim=-1)
    return F.silu(gate) * hidden

Rms, Glu, Rope = Norm(rms), Mlp(glu, gated=True), Position(rotation=rope)
Sgd = Optimizer(sgd.step, ("momentum_buffer",), {"learning_rate": 0.5, "weight_decay": 0.0})
"""
"""Built-in parts, written again."""


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that was given no part."""
    monkeypatch.setattr(parts, "_OWN", {})
    monkeypatch.setattr(plugins, "_GIVEN", {})


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    path = tmp_path / "copies.py"
    path.write_text(COPIES)
    return path


def block(language: str) -> str:
    """The first block of the page in a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_page_is_done_as_it_says(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(block("python"))
    tiny = "n_layer: 1, n_embd: 16, n_head: 2, block_size: 16, batch_size: 4, max_iters: 4, eval_interval: 4"
    tiny += ", warmup_iters: 0, mlp: GeGLU, position: Alibi"
    study = block("yaml").replace("seeds: 3", "seeds: 1")
    Path("own.yaml").write_text(f"corpus: {text_file}\nbase: {{{tiny}}}\n{study}")
    named_parts = ("L1Norm", "GeGLU", "Alibi", "SignSGD")
    given = [word for name in named_parts for word in ("--plugin", f"own.py:{name}")]
    assert run_command_line(["plan", "own.yaml"]) == 2
    assert "own.yaml:5: norm='L1Norm': known: layernorm, rmsnorm; one of your own takes --plugin FILE.py:L1Norm" in (
        capsys.readouterr().err
    )
    named = study_of("own.yaml", None, ("optimizer=SignSGD",), tuple(given[1::2]))
    options = RunOptions(device="cpu", compile="off", precision="fp32", workers=1)
    run_study(named, "out", options, listener=NullListener(), executor=Processes(1))
    forget(monkeypatch)
    results = load_study("out")
    assert [config.norm.partition("@")[0] for config in results.configs] == ["layernorm", "L1Norm"]
    assert set(results.summary()["status"]) == {"done"}
    assert {config.learning_rate for config in results.configs} == {1e-4}
    assert "a part of the study's own" in " ".join(method_chapter(take_snapshot(results)).details)
    assert run_command_line(["sample", "out", "--length", "3"]) == 2
    assert re.search(r"\w+@\w{12} is not at hand: give the file .*--plugin FILE.py:\w+", capsys.readouterr().err)
    assert run_command_line(["sample", "out", "--length", "3", *given]) == 0
    with Path("own.py").open("a") as file:
        file.write("# another file\n")
    forget(monkeypatch)
    assert run_command_line(["run", "own.yaml", "--set", "optimizer=SignSGD", "--out", "out", *given]) == 2
    assert "no run is one of this study's: norm gained L1Norm@" in capsys.readouterr().err


@pytest.mark.parametrize("compiled", [False, True])
def test_copies_of_built_in_parts_train_as_these(
    make: Make, tokens: Tokens, copies: Path, tmp_path: Path, compiled: bool
) -> None:
    same = {"bias": True, "dropout": 0.1}
    built_in = make(norm="rmsnorm", mlp="swiglu", position="rope", optimizer="sgd", learning_rate=0.5, **same)
    norm, mlp, position, optimizer = (use_plugin(f"{copies}:{name}") for name in ("Rms", "Glu", "Rope", "Sgd"))
    own = make(norm=norm, mlp=mlp, position=position, optimizer=optimizer, **same)
    assert params_total(own) == params_total(built_in) and own.learning_rate == 0.5 and own.weight_decay == 0
    [expected], [whole], [half] = (
        recorded([built_in], tokens, compiled=compiled),
        recorded([own], tokens, compiled=compiled),
        recorded([own], tokens, stop_at=10, compiled=compiled),
    )
    losses = [row.loss for row in whole.steps]
    assert losses == pytest.approx([row.loss for row in expected.steps], rel=1e-5 if compiled else 0)
    checkpoint.save(tmp_path, "last", half.kept[-1])
    [rest] = recorded([own], tokens, [checkpoint.load(tmp_path, "last")], compiled=compiled)
    assert torch.equal(rest.kept[-1].flat_P, whole.kept[-1].flat_P)


POSITIONS = """
import torch
from isoloss import Position

def rows(positions_T, width):
    return torch.sin(positions_T[:, None] + torch.arange(width))

def near(distance_TxT, heads):
    return torch.zeros(heads, *distance_TxT.shape).masked_fill(distance_TxT >= 5, float("-inf"))

def slopes(distance_TxT, heads):
    return -distance_TxT * 2.0 ** -torch.arange(1.0, heads + 1)[:, None, None]

Rows, Near, Slopes = Position(rows=rows), Position(bias=near), Position(bias=slopes)
"""


@pytest.fixture
def positions(tmp_path: Path) -> Callable[[str], str]:
    path = tmp_path / "positions.py"
    path.write_text(POSITIONS)
    return lambda name: use_plugin(f"{path}:{name}")


def parameters_of(config: RunConfig, *, compiled: bool = False) -> Parameters:
    """Initial weights, of which the normed scales are not all 1."""
    torch.manual_seed(1)
    flat_P = init_flat(config) + 0.05 * torch.randn(layout_of(config).size)
    return Parameters(
        layout_of(config), flat_P[None], Kernels(torch.float32, Native(torch.float32) if compiled else None)
    )


def logits_of(parameters: Parameters, config: RunConfig) -> Tensor:
    return gpt.logits(parameters, [config], torch.arange(2 * config.block_size).view(1, 2, -1) % config.vocab_size)


@pytest.mark.parametrize("compiled", [False, True])
def test_rows_of_positions_are_added_to_the_embedding(
    make: Make, positions: Callable[[str], str], compiled: bool
) -> None:
    own, learned = make(position=positions("Rows")), make()
    ours, theirs = (parameters_of(config, compiled=compiled) for config in (own, learned))
    assert "wpe.weight" not in ours.weights
    rows_TxC = torch.sin(torch.arange(own.block_size)[:, None] + torch.arange(own.n_embd))
    with torch.no_grad():
        for name, weight in ours.weights.items():
            theirs.weights[name].copy_(weight)
        theirs.weights["wpe.weight"].copy_(rows_TxC)
    assert torch.allclose(logits_of(ours, own), logits_of(theirs, learned), atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_bias_is_added_to_the_scores_of_its_head(make: Make, positions: Callable[[str], str], compiled: bool) -> None:
    near, window = make(position=positions("Near")), make(position="none", window=5)
    parameters = parameters_of(near, compiled=compiled)
    assert torch.allclose(logits_of(parameters, near), logits_of(parameters, window), atol=1e-5)

    config = make(position=positions("Slopes"), n_head=2)
    q_GxTxD, k_GxTxD, v_GxTxD = torch.randn(3, 6, 16, config.n_embd // 2)  # three sequences
    run = ForwardPass([config], {}, Kernels(torch.float32), torch.zeros(1, 3, 16, dtype=torch.long))
    distance_TxT = torch.arange(16)[:, None] - torch.arange(16)
    for g, slope in enumerate([0.5, 0.25] * 3):
        scores_TxT = q_GxTxD[g] @ k_GxTxD[g].T * 0.3 - slope * distance_TxT
        scores_TxT = scores_TxT.masked_fill(distance_TxT < 0, float("-inf"))
        found_TxD = _attend(run, q_GxTxD, k_GxTxD, v_GxTxD, None, 2, 0.3)[g]
        assert torch.allclose(found_TxD, torch.softmax(scores_TxT, -1) @ v_GxTxD[g], atol=1e-5)


@pytest.mark.parametrize("name", ["Rows", "Slopes"])
def test_positions_of_ones_own_are_sampled_as_they_are_trained(
    make: Make, positions: Callable[[str], str], name: str
) -> None:
    config = make(position=positions(name), n_head=2)
    parameters, prompt = parameters_of(config), [1, 2, 3]
    [found] = generate(parameters, config, np.array(prompt, np.uint16), Sampling(length=8, temperature=1e-6)).tolist()
    for end, token in enumerate(found):
        read_1x1xT = torch.tensor(prompt + found[:end])[None, None]
        assert gpt.logits(parameters, [config], read_1x1xT)[0, 0, -1].argmax() == token


def test_a_part_is_named_by_its_source(make: Make, copies: Path, tmp_path: Path, monkeypatch: Any) -> None:
    value = use_plugin(f"{copies}:Rms")
    moved = tmp_path / "moved.py"
    moved.write_text(COPIES)
    forget(monkeypatch)
    assert use_plugin(f"{moved}:Rms") == value
    moved.write_text(COPIES + "\n# more")
    with pytest.raises(ConfigError, match="Rms is also one of"):
        use_plugin(f"{moved}:Rms")
    first = make(norm=value)
    forget(monkeypatch)
    second = make(norm=use_plugin(f"{moved}:Rms"))
    assert len({run_id(first), run_id(second), run_id(make())}) == 3
    with pytest.raises(ConfigError, match="its source is another than that of Rms@"):
        make(norm=value)
    with pytest.raises(ConfigError, match="mlp='Rms@"):
        make(mlp=second.norm)
    own = use_plugin(f"{moved}:Sgd")  # which may read any setting of an optimizer
    assert run_id(make(optimizer=own)) != run_id(make(optimizer=own, muon_learning_rate=0.1))


def test_joined_studies_are_read_without_the_code_of_their_parts(
    copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study("s", "a.txt", factors={"norm": ("layernorm", use_plugin(f"{copies}:Rms"))})
    halves = [replace(study, seeds=(seed,)) for seed in (1, 2)]
    for number, half in enumerate(halves):
        fake_study(tmp_path / f"{number}", half, dict.fromkeys(range(2), ("pending", "")))
    changed = replace(halves[0], description="changed once training had begun")
    revise(StudyPaths(tmp_path / "0"), halves[0], changed, runs_ended=0, begun=True)
    merge_studies([tmp_path / "0", tmp_path / "1"], tmp_path / "whole")
    forget(monkeypatch)
    assert len(load_study(tmp_path / "whole").configs) == 4


def test_studies_name_parts_where_settings_have_levels(copies: Path) -> None:
    value = use_plugin(f"{copies}:Rms")
    stated = "name: Rms\nfactors: {norm: [layernorm, Rms]}\n"
    stated += "tuned: {learning_rate: {over: norm, layernorm: [1e-3, 2e-3], Rms: [4e-3]}}\n"
    stated += "hypotheses: [{says: Rms, kind: effect, factor: norm, levels: [layernorm, Rms], direction: up}]\n"
    study = parse_study(stated, "study")
    [claim] = study.hypotheses
    assert study.name == claim.says == "Rms"
    assert study.varied["norm"] == ("layernorm", value) == getattr(claim, "levels", None)
    assert with_plugins({"Rms": ["Rms", 1]}) == {value: [value, 1]}


@pytest.mark.parametrize(
    ("source", "name", "told"),
    [
        (COPIES, "Other", "has nothing of this name"),
        (COPIES, "rms", "expected FILE.py:NAME, of which the name begins with a capital"),
        ("Part = 3", "Part", "is no part: an isoloss.Norm"),
        ("Part = 1 / 0", "Part", "does not run: ZeroDivisionError"),
        ("raise SystemExit(3)", "Part", "does not run: SystemExit"),
        ("import beside_it", "Part", "does not run: ModuleNotFoundError"),
        ("from isoloss import Norm\nPart = Norm(3)", "Part", "has no function"),
        ("from isoloss import Position\nPart = Position(learned=True)", "Part", "has no function"),
        ("from isoloss import Optimizer\nPart = Optimizer(print, ('model',))", "Part", "can't be called 'model'"),
    ],
)
def test_what_is_no_part_is_told_in_a_line(tmp_path: Path, source: str, name: str, told: str) -> None:
    (tmp_path / "part.py").write_text(source)
    (tmp_path / "beside_it.py").write_text("")
    with pytest.raises(ConfigError, match=re.escape(told)):
        use_plugin(f"{tmp_path / 'part.py'}:{name}")


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        use_plugin(f"{tmp_path / 'none.py'}:Part")


def test_a_part_that_fails_is_told_before_anything_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "part.py").write_text("from isoloss import Norm\nBroken = Norm(lambda x: x.nosuch)\n")
    (tmp_path / "study.yaml").write_text("name: s\nbase: {norm: Broken, n_layer: 1, n_embd: 16}\n")
    plugin = f"--plugin={tmp_path / 'part.py'}:Broken"
    assert run_command_line(["plan", str(tmp_path / "study.yaml"), plugin, "--compile", "off"]) == 2
    said = capsys.readouterr().err
    assert "a step with Broken@" in said and "fails: AttributeError" in said and "Traceback" not in said
