"""Tuned settings: which values each cell is tried at, and levels compared each at its best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.claim import Claim, Evidence
from isoloss.analysis.claims import judge
from isoloss.analysis.effects import Effects
from isoloss.analysis.exploration import study_effects
from isoloss.analysis.scaling_results import ScalingResults
from isoloss.analysis.tuned import at_best_values
from isoloss.cli import run_command_line
from isoloss.design.audit import audit
from isoloss.design.seed_noise import SeedNoise, seeds_to_resolve
from isoloss.diagnostic import Diagnostic
from isoloss.errors import ConfigError
from isoloss.report.chapters.comparison import compare_studies
from isoloss.report.findings import find
from isoloss.report.snapshot import take_snapshot
from isoloss.store.merging import joined
from isoloss.store.revisions import revise, revisions, stated_beforehand
from isoloss.study.identity import run_id
from isoloss.study.stated_hypotheses import make_hypothesis
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study, parse_study
from isoloss.study.texts import ANY_DATA, DataFacts
from tests.fake_studies import fake_study

OVER = "tuned: {learning_rate: {over: optimizer, adamw: [1e-3, 4e-3], lion: [1e-4, 4e-4, 8e-4]}}"
BASE = "base: {n_head: 1, n_embd: 16, block_size: 8, max_iters: 50, warmup_iters: 5, eval_interval: 10}"
FACTS = DataFacts("", 65)


def read(text: str) -> Study:
    study = parse_study(f"name: s\n{text}", "s.yaml")
    assert parse_study(dump_study(study), "again") == study
    assert study.size == len(study.expand(ANY_DATA))
    return study


def cells(text: str, *settings: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(config, name) for name in settings) for config in read(text).expand(FACTS)]


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_study(f"name: s\n{text}", "s.yaml")
    return str(error.value)


def test_every_cell_is_tried_at_the_values_of_its_level() -> None:
    tried = [("adamw", 1e-3), ("adamw", 4e-3), ("lion", 1e-4), ("lion", 4e-4), ("lion", 8e-4)]
    assert cells(OVER, "optimizer", "learning_rate") == tried  # which makes a factor of what it is over
    assert cells(f"{OVER}\nfactors: {{optimizer: [lion]}}".replace("adamw: [1e-3, 4e-3], ", ""), "learning_rate") == [
        (1e-4,), (4e-4,), (8e-4,)
    ]  # fmt: skip
    crossed = cells(f"{OVER}\nfactors: {{optimizer: [adamw, lion], dropout: [0.0, 0.1]}}\nseeds: 2", "optimizer")
    assert (crossed.count(("adamw",)), crossed.count(("lion",))) == (2 * 2 * 2, 2 * 2 * 3)


def test_values_may_be_the_same_for_all_and_a_level_without_a_list_has_its_default() -> None:
    same = "factors: {n_embd: [16, 32]}\nbase: {n_head: 2}\ntuned: {learning_rate: [1e-3, 2e-3], dropout: [0.0, 0.1]}"
    assert cells(same, "n_embd", "learning_rate", "dropout")[:5] == [
        (16, 1e-3, 0.0), (16, 1e-3, 0.1), (16, 2e-3, 0.0), (16, 2e-3, 0.1), (32, 1e-3, 0.0)
    ]  # fmt: skip
    muon = (
        "factors: {optimizer: [adamw, muon]}\ntuned: {muon_learning_rate: {over: optimizer, muon: [0.01, 0.02, 0.04]}}"
    )
    assert cells(muon, "optimizer", "muon_learning_rate") == [
        ("adamw", None), ("muon", 0.01), ("muon", 0.02), ("muon", 0.04)
    ]  # fmt: skip
    widths = "tuned: {learning_rate: {over: n_embd, 16: [1e-2], 32: [1e-3, 2e-3]}}"
    assert cells(f"base: {{n_head: 2}}\n{widths}", "n_embd", "learning_rate") == [(16, 1e-2), (32, 1e-3), (32, 2e-3)]


def test_cells_are_left_out_and_settings_held_constant_at_tuned_values_too() -> None:
    assert len(cells(f"{OVER}\nexclude: [{{optimizer: lion, learning_rate: 8e-4}}]", "optimizer")) == 4
    study = read(OVER)
    lion = study.with_settings({"optimizer": "lion"})
    assert [config.learning_rate for config in lion.expand(FACTS)] == [1e-4, 4e-4, 8e-4]
    at_one = study.with_settings({"learning_rate": 5e-4})
    assert [(c.optimizer, c.learning_rate) for c in at_one.expand(FACTS)] == [("adamw", 5e-4), ("lion", 5e-4)]
    assert study.with_settings({"optimizer": "sgd"}).size == 1  # for which nothing is tried


def test_tuned_cells_share_a_budget() -> None:
    sizes = "budgets: {tokens: [4096, 8192], n_embd: [16, 32]}\nbase: {n_head: 2, eval_interval: 10, block_size: 8}"
    study = read(f"{sizes}\ntuned: {{learning_rate: [1e-3, 2e-3]}}\nexclude: [{{n_embd: 32, learning_rate: 2e-3}}]")
    resolved = study.resolved(FACTS)
    assert sorted(map(run_id, study.expand(FACTS))) == sorted(map(run_id, resolved.expand(FACTS)))
    assert (resolved.size, [*resolved.tuned]) == (6, ["learning_rate"])
    changing = read(f"{sizes}\ntuned: {{batch_size: [4, 8]}}")
    with pytest.raises(ConfigError, match="batch_size may not change the steps that a budget pays for"):
        changing.resolved(FACTS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tuned: {learning_rate: 1e-3}", "s.yaml:2: tuned: learning_rate: expected values, like [1e-3, 2e-3], or"),
        ("tuned: {learning_rate: {adamw: [1e-3]}}", "expected values, like [1e-3, 2e-3], or {over: optimizer"),
        ("tuned: {learning_rate: {over: optimizer}}", "expected values, like [1e-3, 2e-3], or {over: optimizer"),
        ("tuned:\n  lr: [1e-3, 2e-3]", "s.yaml:3: unknown setting 'lr' in tuned: use learning_rate"),
        ("tuned: {init_seed: [1, 2]}", "init_seed: seeds are labels, of which none is best"),
        ("base: {dropout: 0.1}\ntuned: {dropout: [0.0, 0.1]}", "'dropout' is both in base and in tuned; keep one"),
        ("factors: {dropout: [0.0, 0.1]}\ntuned: {dropout: [0.0, 0.1]}", "both in factors and in tuned"),
        ("tuned:\n  dropout:\n  - 0.0\n  - 2.0", "s.yaml:5: dropout=2.0"),
        ("tuned:\n  dropout: {over: mlp,\n    gelu: [0.0, 2.0]}", "s.yaml:4: dropout=2.0"),
        ("tuned: {dropout: [0.1, 0.1]}", "'dropout' repeats a level"),
        (f"factors: {{optimizer: [adamw]}}\n{OVER}", "optimizer has no level 'lion'; its levels are ['adamw']"),
        ("factors: {mlp: [gelu, relu2]}\ntuned: {dropout: {over: norm, rmsnorm: []}}", "'dropout' has no levels"),
        ("tuned: {dropout: {over: dropout, 0.1: [0.1]}}", "s.yaml:2: tuned: dropout: over='dropout' is tuned itself"),
        ("tuned: {dropout: {over: init_seed, 1: [0.1]}}", "over='init_seed' is a seed"),
        ("base: {mlp: gelu}\ntuned: {dropout: {over: mlp, gelu: [0.1]}}", "s.yaml:3: tuned: dropout: mlp is no factor"),
        ("tuned: {dropout: {over: n_layer, 2: [0.1], 2.0: [0.3]}}", "two of 2, 2.0 are the same level of n_layer"),
        ("target: -1", "s.yaml:2: target=-1: Input should be greater than 0"),
        ("tuned: {dropout: {over: nrom, rmsnorm: [0.1]}}", "nrom is no factor of this study: did you mean 'norm'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tuned_values_is_said_at_its_line(text: str, said: str) -> None:
    assert said in refused(text)


def swept(
    losses: Mapping[tuple[str, float], Sequence[float | None]], tuned: tuple[str, ...] = ("learning_rate",)
) -> Evidence:
    """A run for each seed at each optimizer and rate; a loss of None is that of a run that diverged."""
    rows = [
        {"run_id": f"{optimizer}{rate:g}.{seed}", "seed": seed, "optimizer": optimizer, "learning_rate": rate,
         "best_val_loss": loss, "final_val_loss": loss, "device": "cpu", "program": str(seed), "shuffled": True}
        for (optimizer, rate), of in losses.items() for seed, loss in enumerate(of)
    ]  # fmt: skip
    table = pl.DataFrame(rows)
    factors = {name: table[name].unique(maintain_order=True).to_list() for name in ("optimizer", "learning_rate")}
    lost = table.filter(pl.col("best_val_loss").is_null()).select("run_id", "seed", *factors)
    return Evidence(table.drop_nulls("best_val_loss"), factors, _not_asked, _not_asked, lost, tuned)


def _not_asked(_: float) -> Any:
    raise AssertionError


SWEEPS: dict[tuple[str, float], Sequence[float | None]] = {
    ("adamw", 1e-3): (2.00, 2.01, 2.02),
    ("adamw", 2e-3): (2.10, 2.11, 2.12),
    ("adamw", 4e-3): (1.70, None, 1.72),  # the lowest mean, of runs that were not lost
    ("lion", 1e-3): (3.00, 3.01, 3.02),
    ("lion", 2e-3): (1.91, 1.90, 1.92),
    ("lion", 4e-3): (1.89, 1.99, 1.98),  # the lowest single run
}


def test_the_runs_at_the_best_value_of_each_level_are_compared() -> None:
    best = at_best_values(swept(SWEEPS))
    assert best.table.select("optimizer", "learning_rate").unique(maintain_order=True).rows() == [
        ("adamw", 1e-3), ("lion", 2e-3)
    ]  # fmt: skip
    assert (len(best.table), [*best.factors], best.at_best, len(best.lost)) == (6, ["optimizer"], ("learning_rate",), 0)
    assert at_best_values(best) is best


def test_a_value_that_lost_runs_at_every_other_value_too_takes_its_lost_runs_along() -> None:
    losses = {key: (*of[:2], None) for key, of in SWEEPS.items()} | {("adamw", 4e-3): (None, None, 1.72)}
    best = at_best_values(swept(losses))
    assert best.table["learning_rate"].unique(maintain_order=True).to_list() == [1e-3, 2e-3]
    assert sorted(best.lost["run_id"]) == ["adamw0.001.2", "lion0.002.2"]


def test_one_best_value_where_nothing_else_varies() -> None:
    alone = {key: of for key, of in SWEEPS.items() if key[0] == "lion"}
    best = at_best_values(swept(alone).where([("optimizer", "lion")]))
    assert best.table["learning_rate"].unique().to_list() == [2e-3]
    assert best.factors == {}


def claim(found: Evidence, **stated: Any) -> Claim:
    (only,) = judge([make_hypothesis({"says": "It is so", **stated}, 1)], found)
    return only


LION: dict[str, Any] = {"kind": "effect", "factor": "optimizer", "direction": "down"}


def test_a_claim_compares_optima_and_says_so() -> None:
    tuned, averaged = claim(swept(SWEEPS), **LION), claim(swept(SWEEPS, ()), **LION)
    assert tuned.verdict == "supported"
    assert tuned.estimate is not None and tuned.estimate.value == pytest.approx(1.91 - 2.01)
    assert "at optimizer lion minus that at adamw, each at its best learning_rate, is −0.1" in tuned.sentence
    assert tuned.estimate.n == len(tuned.run_ids) == 6
    assert {caution.code for caution in tuned.cautions} == {"few_blocks", "tuned_at_edge", "tuned_values"}
    assert averaged.estimate is not None and averaged.estimate.value > 0.2
    ratio = claim(swept(SWEEPS), kind="ratio", factor="optimizer", response="final_val_loss", high=0.99)
    assert ratio.estimate is not None and ratio.estimate.value == pytest.approx(1.91 / 2.01, rel=1e-4)
    assert "each at its best learning_rate" in ratio.sentence


def test_a_claim_about_the_tuned_setting_takes_all_runs() -> None:
    about = {"kind": "effect", "factor": "learning_rate", "direction": "up", "where": {"optimizer": "lion"}}
    assert claim(swept(SWEEPS), **about, levels=[1e-3, 2e-3]).estimate.value == pytest.approx(-1.1)  # type: ignore[union-attr]
    best = claim(
        swept(SWEEPS), kind="optimum", factor="learning_rate", low=1.5e-3, high=1e-2, where={"optimizer": "lion"}
    )
    assert best.estimate is not None and best.estimate.n == 9


def test_a_claim_about_one_tuned_setting_takes_the_best_of_the_others() -> None:
    """Without weight decay 4e-3 is best; on average over both it is 2e-3. AdamW does not read muon_learning_rate."""
    best = {0.0: 4e-3, 0.5: 1e-3}
    rows = [
        {"run_id": f"{rate}{decay}{seed}", "seed": seed, "optimizer": "adamw", "learning_rate": rate,
         "weight_decay": decay, "muon_learning_rate": None,
         "best_val_loss": 2 + 10 * decay + abs(np.log2(rate / best[decay])) + 0.001 * seed * rate}
        for rate in (5e-4, 1e-3, 2e-3, 4e-3, 8e-3) for decay in (0.0, 0.5) for seed in range(3)
    ]  # fmt: skip
    table = pl.DataFrame(rows, schema_overrides={"muon_learning_rate": pl.Float64()})
    tuned = ("learning_rate", "weight_decay", "muon_learning_rate")
    factors = {name: table[name].unique(maintain_order=True).to_list() for name in tuned[:2]}
    factors["muon_learning_rate"] = [None, 0.01]  # of Muon's runs, which are no part of this table
    found = Evidence(table, factors, _not_asked, _not_asked, table.head(0), tuned)
    about = claim(found, kind="optimum", factor="learning_rate", low=3e-3, high=5e-3)
    assert about.estimate is not None and about.estimate.value == pytest.approx(4e-3, rel=0.15)
    assert about.estimate.n == 15
    assert "each at its best weight_decay and muon_learning_rate, is lowest" in about.sentence


def test_what_a_study_tunes_alone_is_told() -> None:
    alone = {key: of for key, of in SWEEPS.items() if key[0] == "lion"}
    told = study_effects(at_best_values(swept(alone).where([("optimizer", "lion")])))
    assert isinstance(told, Diagnostic)
    assert told.text.startswith("The study varies nothing but what it tunes, learning_rate. The best values, by the")


def test_a_hypothesis_whose_comparison_changed_is_late(tmp_path: Path) -> None:
    stated = "hypotheses: [{says: Lion is lower, kind: effect, factor: optimizer, direction: down, response: RESPONSE}]"
    before = read(f"{BASE}\n{OVER}\ntarget: 2.0\n{stated.replace('RESPONSE', 'steps_to_target')}")
    after = read(f"{BASE}\n{OVER}\ntarget: 1.5\n{stated.replace('RESPONSE', 'steps_to_target')}")
    more = read(f"{BASE}\n{OVER.replace('8e-4', '8e-4, 16e-4')}\n{stated.replace('RESPONSE', 'best_val_loss')}")
    less = read(f"{BASE}\n{OVER}\n{stated.replace('RESPONSE', 'best_val_loss')}")
    for number, (old, new) in enumerate([(before, after), (less, more)]):
        paths = fake_study(tmp_path / str(number), old, {}).paths
        revise(paths, old, new, runs_ended=1, begun=True)
        assert stated_beforehand(paths, new) == ()
        assert stated_beforehand(paths, old) == old.hypotheses
        assert revisions(paths)[0].changes


def test_merged_studies_stay_tuned() -> None:
    halves = [
        read(f"{BASE.replace('n_embd: 16, ', '')}\nfactors: {{n_embd: [{width}]}}\n{OVER}\ntarget: 2.0")
        for width in (16, 32)
    ]
    whole = joined(halves, [half.expand(FACTS) for half in halves])
    assert (whole.size, whole.target, whole.tuned) == (10, 2.0, halves[0].tuned)
    ids = {run_id(config) for half in halves for config in half.expand(FACTS)}
    assert {run_id(config) for config in whole.expand(FACTS)} == ids
    part = replace(halves[1], exclude=({"learning_rate": 8e-4},))
    with pytest.raises(ConfigError, match="leaves out some values that it tunes"):
        joined([halves[0], part], [halves[0].expand(FACTS), part.expand(FACTS)])
    other = read(f"{BASE}\n{OVER.replace('8e-4', '9e-4')}\ntarget: 2.0")
    with pytest.raises(ConfigError, match="tune different settings"):
        joined([halves[0], other], [halves[0].expand(FACTS), other.expand(FACTS)])
    with pytest.raises(ConfigError, match="targets differ: 2 and 3"):
        joined([halves[0], replace(halves[1], target=3.0)], [half.expand(FACTS) for half in halves])


def test_studies_are_compared_at_best_values(tmp_path: Path) -> None:
    """GELU and ReLU² are best at different rates, where both have the same loss."""
    tuned = "tuned: {learning_rate: [1e-3, 2e-3, 4e-3]}\nseeds: 3"

    def curve(config: Any, _number: int, _step: int) -> float:
        best = 1e-3 if config.mlp == "gelu" else 4e-3
        return 2 + abs(np.log2(config.learning_rate / best)) * (2 if config.mlp == "gelu" else 1) + 1e-3 * config.seed

    results = [
        fake_study(tmp_path / mlp, read(f"{BASE.replace('base: {', f'base: {{mlp: {mlp}, ')}\n{tuned}"), {}, curve)
        for mlp in ("gelu", "relu2")
    ]
    found = compare_studies(*results)
    assert len(found.shared) == 3
    assert (found.shared["second"] - found.shared["first"]).abs().max() < 1e-9  # type: ignore[operator]


def test_effects_are_of_the_best_values_and_name_them() -> None:
    found = study_effects(at_best_values(swept(SWEEPS)))
    assert not isinstance(found, Diagnostic)
    assert [effect.term for effect in found.effects] == ["optimizer"]
    assert (found.n, found.tuned) == (6, ("learning_rate",))
    (note,) = [caution.text for caution in found.cautions if caution.code == "tuned_values"]
    assert "learning_rate 0.001 at optimizer adamw; learning_rate 0.002 at optimizer lion" in note
    (edge,) = [caution.text for caution in found.cautions if caution.code == "tuned_at_edge"]
    assert edge == "The best learning_rate lies at the edge of what was tried: 0.001, the lowest at optimizer adamw."


def test_of_two_values_neither_is_an_edge() -> None:
    two = {key: of for key, of in SWEEPS.items() if key[1] < 4e-3}
    assert [each.code for each in at_best_values(swept(two)).cautions] == ["tuned_values"]


def test_a_report_rests_on_the_best_values(tmp_path: Path) -> None:
    """Wider is better at a rate of 2e-3, worse at 1e-3, where it is not compared."""
    text = f"{BASE}\nfactors: {{n_embd: [16, 32, 64], max_iters: [50, 100, 150]}}\nseeds: 3"
    study = read(
        f"{text.replace('n_embd: 16, ', '').replace('max_iters: 50, ', '')}\ntuned: {{learning_rate: [1e-3, 2e-3]}}"
    )

    def curve(config: Any, number: int, step: int) -> float:
        of_rate = 1 + config.n_embd / 100 if config.learning_rate == 1e-3 else 1 - config.n_embd / 1000
        return of_rate + 1 / (1 + step) + 1e-4 * (number % 3)

    found = find(take_snapshot(fake_study(tmp_path, study, {}, curve)))
    assert isinstance(found.effects, Effects) and isinstance(found.scaling, ScalingResults)
    (width,) = [effect for effect in found.effects.effects if effect.term == "n_embd"]
    assert width.estimate is not None and width.estimate.value < 0
    assert found.effects.n == found.scaling.fit.n == len(found.compared.run_ids) == 27


def test_one_run_a_value_is_said_to_be_in_part_luck() -> None:
    once = swept({key: of[:1] for key, of in SWEEPS.items() if of[0] is not None})
    assert [each.code for each in at_best_values(once).cautions if each.severity == "limits"] == [
        "tuned_at_edge", "tuned_once"
    ]  # fmt: skip


def test_a_value_with_runs_missing_is_not_the_best() -> None:
    """Two of three runs at 1e-3 are damaged or still to be trained, so in neither table, and the third is lucky."""
    losses = {key: of for key, of in SWEEPS.items() if key[0] == "lion"} | {("lion", 1e-3): (1.0,)}
    best = at_best_values(swept(losses))
    assert best.table["learning_rate"].unique().to_list() == [2e-3]


def test_one_value_against_several_is_a_caution() -> None:
    alone = {key: of for key, of in SWEEPS.items() if key[0] == "lion" or key[1] == 1e-3}
    (told,) = [each for each in at_best_values(swept(alone)).cautions if each.code == "tuned_unequally"]
    assert told.text.startswith("One value was tried at optimizer adamw and up to 3 elsewhere")


def test_nothing_lies_below_zero() -> None:
    losses = {("adamw", rate): (2 + rate, 2.1 + rate) for rate in (0.0, 0.1, 0.2)}
    assert "tuned_at_edge" not in {each.code for each in at_best_values(swept(losses)).cautions}


def audited(text: str, code: str) -> list[Diagnostic]:
    study = read(f"{BASE}\n{text}")
    return [found for found in audit(study, study.expand(FACTS)) if found.code == code]


def test_the_audit_asks_for_rates_that_are_tuned() -> None:
    stated = "hypotheses: [{says: Lion is lower, kind: effect, factor: optimizer, direction: down}]"
    (told,) = audited(f"factors: {{optimizer: [adamw, lion, muon]}}\n{stated}", "untuned_rates")
    assert told.severity == "limits"
    assert "No learning rate is tuned for adamw, lion and muon (trained at 0.001, 0.0001 and 0.02)" in told.text
    assert told.remedy is not None and (snippet := told.remedy.removeprefix("Compare each at its best rate: "))
    assert audited(snippet.removesuffix("."), "untuned_rates") == []
    (some,) = audited(f"factors: {{optimizer: [adamw, lion, sgd]}}\n{OVER}", "untuned_rates")
    assert some.severity == "note" and "tuned for sgd (" in some.text
    (crossed,) = audited("factors: {optimizer: [adamw, lion], learning_rate: [1e-4, 1e-3]}", "untuned_rates")
    assert "on average over all levels of learning_rate, not each at its best" in crossed.text
    assert crossed.remedy is not None and crossed.remedy.startswith("Move learning_rate to tuned")
    adamw_alone = "tuned: {learning_rate: {over: optimizer, adamw: [1e-3, 2e-3], muon: [1e-3, 2e-3]}}"
    (muon,) = audited(adamw_alone, "untuned_rates")
    assert "tuned for muon (trained at 0.02)" in muon.text


def test_the_audit_counts_the_runs_that_are_compared() -> None:
    stated = "hypotheses: [{says: Lion is lower, kind: effect, factor: optimizer, direction: down}]\nseeds: 3"
    (told,) = audited(f"{OVER}\n{stated}", "detectable_effect")
    assert "compares 3 runs at optimizer adamw with as many at lion (1 cell, 3 seeds)" in told.text
    study = read(f"{OVER}\n{stated}")
    noise = SeedNoise.of(0.01, "known", 0.0)
    assert seeds_to_resolve(study, noise) == seeds_to_resolve(study.compared, noise)
    (within,) = audited(
        f"{OVER}\nseeds: 3\nhypotheses: [{{says: A rate is better, kind: effect, factor: learning_rate, "
        "direction: down, levels: [1e-4, 4e-4], where: {optimizer: lion}}]",
        "detectable_effect",
    )
    assert "compares 3 runs at learning_rate 0.0001 with as many at 0.0004" in within.text
    assert audited(f"{OVER}\n{stated}", "runs_without_level") == []


def test_the_effects_of_any_table_are_taken_at_best_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"optimizer": optimizer, "lr": rate, "seed": seed, "loss": loss, "accuracy": None if loss is None else -loss}
        for (optimizer, rate), of in SWEEPS.items()
        for seed, loss in enumerate(of)
    ]
    pl.DataFrame(rows).write_csv(table := tmp_path / "runs.csv")

    def found(*more: str) -> Any:
        verb = ["effects", str(table), "--factors", "optimizer", "--block", "seed", "--json", *more]
        assert run_command_line(verb) == 0
        return json.loads(capsys.readouterr().out)

    tuned = found("--response", "loss", "--tuned", "lr")
    assert (tuned["n"], tuned["tuned"]) == (6, ["lr"])
    assert tuned["effects"][0]["estimate"]["value"] == pytest.approx(1.91 - 2.01)
    higher = found("--response", "accuracy", "--tuned", "lr")
    assert higher["effects"][0]["estimate"]["value"] == pytest.approx(2.01 - 1.91)
    assert (
        run_command_line(["effects", str(table), "--response", "loss", "--factors", "optimizer", "--tuned", "rl"]) == 2
    )
    assert "no column 'rl'" in capsys.readouterr().err


def test_a_study_is_compared_at_best_values_in_the_terminal_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = read(f"{BASE}\n{OVER}\nseeds: 3")

    def curve(config: Any, number: int, step: int) -> float:
        worse = {1e-3: 0.5, 4e-3: 0.0, 1e-4: 2.0, 4e-4: 0.2, 8e-4: 1.0}[config.learning_rate]
        return 2 + worse + 1 / (1 + step) + 1e-3 * (number % 3) * number

    fake_study(tmp_path, study, {}, curve)
    verb = ["effects", str(tmp_path), "--response", "best_val_loss", "--factors", "optimizer", "--json"]
    assert run_command_line(verb) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["n"], found["tuned"]) == (6, ["learning_rate"])
    assert found["effects"][0]["estimate"]["value"] == pytest.approx(0.2, abs=0.01)
    assert "learning_rate varies too" not in captured.err
    assert run_command_line([*verb[:-2], "optimizer,learning_rate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 15


def test_the_best_values_of_a_study_are_those_of_each_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best rate differs by dropout, which is not among the factors asked about."""
    text = "factors: {mlp: [gelu, relu2], dropout: [0.0, 0.2]}\ntuned: {learning_rate: [1e-3, 2e-3]}\nseeds: 3"

    def curve(config: Any, number: int, _step: int) -> float:
        best = 1e-3 if config.dropout else 2e-3
        return 2 + (config.mlp == "relu2") * 0.1 + (config.learning_rate != best) + 1e-4 * (number % 3) ** 2

    fake_study(tmp_path, read(f"{BASE}\n{text}"), {}, curve)
    assert (
        run_command_line(["effects", str(tmp_path), "--response", "best_val_loss", "--factors", "mlp", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 12
    assert found["effects"][0]["estimate"]["value"] == pytest.approx(0.1, abs=1e-3)
