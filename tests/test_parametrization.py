"""Parametrizations: against a plain model, and that activations do not grow with the width."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import log2, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from isoloss.analysis.coordinates import coordinate_check
from isoloss.cli import run_command_line
from isoloss.data.batches import train_batch
from isoloss.data.token_files import Tokens
from isoloss.errors import ConfigError
from isoloss.model import gpt
from isoloss.model.functions import Kernels
from isoloss.model.parameters import Parameters, init_flat, layout_of
from isoloss.report.chapters.coordinates import coordinates_chapter
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.parametrization import scales
from tests.recording import recorded
from tests.reference import reference_losses
from tests.test_parity import TOLERANCE, batches, losses

Make = Callable[..., RunConfig]
SCALED: dict[str, Any] = {"n_embd": 64, "n_head": 4, "base_n_embd": 16, "base_n_layer": 1, "n_layer": 2}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("parametrization", ["mup", "completep"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_scaled_model_is_the_plain_one(
    make: Make, tokens: Tokens, parametrization: str, tied: bool, compiled: bool
) -> None:
    config = make(
        **SCALED,
        parametrization=parametrization,
        tie_embeddings=tied,
        max_iters=15,
        learning_rate=1e-2,
        weight_decay=0.5,
    )
    [recording] = recorded([config], tokens, compiled=compiled)
    assert losses(recording) == pytest.approx(reference_losses(config, batches(config, tokens)), rel=3 * TOLERANCE)


def test_scales_by_hand(make: Make) -> None:
    standard, mup, completep = (scales(make(**SCALED, parametrization=p)) for p in ("standard", "mup", "completep"))
    assert (standard.attention, standard.matrix_std, standard.projection_std) == (1 / 4, 0.02, 0.01)
    assert (mup.attention, mup.matrix_std, mup.projection_std) == (8 / 16, 0.01, 0.005)
    assert (mup.logits, mup.matrix_rate, mup.matrix_decay, mup.residual) == (1 / 4, 1 / 4, 1, 1)
    assert (completep.projection_std, completep.residual, completep.matrix_decay) == (0.01, 0.5, 4)
    wide = make(**{**SCALED, "n_embd": 16}, parametrization="mup")
    assert (scales(wide).matrix_rate, scales(wide).matrix_std) == (1, 0.02)


def test_the_drawn_weights_have_these_deviations(make: Make) -> None:
    config = make(**{**SCALED, "n_embd": 128}, parametrization="mup")
    tensors = layout_of(config).split(init_flat(config))
    deviations = {
        name: tensors[name].std().item() for name in ("h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight", "wte.weight")
    }
    assert list(deviations.values()) == pytest.approx([0.02 / sqrt(8), 0.01 / sqrt(8), 0.02], rel=0.05)


def logit_change(make: Make, tokens: Tokens, parametrization: str, n_embd: int) -> float:
    """By how much five steps at a large rate change the logits, root mean square over two seeds."""
    found: list[float] = []
    for seed in (1, 2):
        config = make(
            n_layer=2, n_head=4, n_embd=n_embd, base_n_embd=32, parametrization=parametrization, schedule="constant",
            learning_rate=1e-2, warmup_iters=0, max_iters=5, eval_interval=5, seed=seed, weight_decay=0.0,
        )  # fmt: skip
        [recording] = recorded([config], tokens)
        block = train_batch(tokens.train_N, 0, 0, 0, 1, config.batch_size, config.block_size)
        blocks_1xBxT = torch.from_numpy(np.stack([block]))[..., :-1]
        before, after = (
            gpt.logits(Parameters(layout_of(config), flat_P[None], Kernels(torch.float32)), [config], blocks_1xBxT)
            for flat_P in (init_flat(config), recording.kept[-1].flat_P)
        )
        found.append((after - before).square().mean().sqrt().item())
    return sum(found) / 2


def test_updates_grow_with_the_width_in_standard_and_not_in_mup(make: Make, tokens: Tokens) -> None:
    """The coordinate check of Yang et al. 2022: the slope of log size over log width."""

    def slope(parametrization: str) -> float:
        narrow, wide = (logit_change(make, tokens, parametrization, n_embd) for n_embd in (32, 256))
        return log2(wide / narrow) / 3

    assert abs(slope("mup")) < 0.15 < 0.25 < slope("standard")


def test_a_coordinate_check_tells_the_parametrizations_apart(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"n_layer": 1, "n_head": 2, "block_size": 16, "batch_size": 4, "base_n_embd": 32, "learning_rate": 1e-2}
    factors = {"parametrization": ["mup", "standard"], "n_embd": [32, 64, 128, 256]}
    study = {"name": "widths", "corpus": str(text_file), "base": base, "factors": factors, "seeds": 2}
    (tmp_path / "widths.yaml").write_text(json.dumps(study))
    assert run_command_line(["coordcheck", str(tmp_path / "widths.yaml"), "--json", "--steps", "8"]) == 0
    found = json.loads(capsys.readouterr().out)
    verdicts = {(each["parametrization"], each["activation"]): each["verdict"] for each in found["growth"]}
    assert verdicts["standard", "logits"] == verdicts["standard", "stream"] == verdicts["standard", "mlp 1"] == "grows"
    assert "grows" not in {verdict for (name, _), verdict in verdicts.items() if name == "mup"}
    assert verdicts["mup", "logits"] == "stays" and len(found["sizes"]) == 2 * 4 * 2 * 5
    page = tmp_path / "page"
    assert run_command_line(["coordcheck", str(tmp_path / "widths.yaml"), "--out", str(page), "--seeds", "1"]) == 0
    assert (
        "With parametrization standard, as the model gets wider, what training changes grows in"
        in capsys.readouterr().out
    )
    assert (page / "index.html").exists()
    study["factors"] = {"n_embd": [32]}
    (tmp_path / "one.yaml").write_text(json.dumps(study))
    assert run_command_line(["coordcheck", str(tmp_path / "one.yaml")]) == 2
    assert "list two or more of n_embd under factors" in capsys.readouterr().err


def test_the_figure_has_widths_across_and_changes_up() -> None:
    """Change 2 at width 32 grows to 8 at 128 under standard, and stays under mup."""
    rows = [
        {"parametrization": name, "n_embd": width, "seed": seed, "activation": "logits", "change": change}
        for name, power in (("mup", 0), ("standard", 1))
        for width in (32, 64, 128)
        for seed, change in ((1, 2 * (width / 32) ** power * 2), (2, 2 * (width / 32) ** power / 2))
    ]
    check = coordinate_check(pl.DataFrame(rows), 10)
    assert [(each.parametrization, round(each.slope.value, 9)) for each in check.growth] == [
        ("mup", 0),
        ("standard", 1),
    ]
    figure = coordinates_chapter(check).figures[0]
    spec = figure.spec(600)
    assert [panel["title"] for panel in spec["hconcat"]] == ["mup", "standard"]
    for panel in spec["hconcat"]:
        line, points = panel["layer"]
        assert [layer["encoding"]["x"]["field"] for layer in (line, points)] == ["n_embd", "n_embd"]
        assert (line["encoding"]["y"]["field"], points["encoding"]["y"]["field"]) == ("mean", "change")
        assert line["encoding"]["x"]["scale"]["type"] == points["encoding"]["y"]["scale"]["type"] == "log"
        assert line["encoding"]["x"]["axis"]["values"] == [32, 64, 128]
    means = figure.frame.filter(parametrization="standard").unique(["n_embd"], maintain_order=True)["mean"].to_list()
    assert means == pytest.approx([2, 4, 8])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"parametrization": "mup"}, "parametrization=mup needs base_n_embd, at which its rates are tuned"),
        ({"parametrization": "completep", "base_n_embd": 8}, "parametrization=completep needs base_n_layer"),
        ({"parametrization": "mup", "base_n_embd": 8, "optimizer": "sgd"}, "and optimizer=sgd would need others"),
    ],
)
def test_what_a_parametrization_needs_is_asked_for(make: Make, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(**settings)


def test_a_base_that_is_not_read_is_no_part_of_a_runs_name(make: Make) -> None:
    assert run_id(make()) == run_id(make(base_n_embd=8, base_n_layer=1))
    mup = {"parametrization": "mup", "base_n_embd": 8}
    assert run_id(make(**mup)) == run_id(make(**mup, base_n_layer=1)) != run_id(make(**{**mup, "base_n_embd": 4}))
