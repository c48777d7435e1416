"""What the page concludes: claims, effects, convergence and the audit, on studies whose answers are known."""

from __future__ import annotations

import html
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.convergence import Convergence
from isoloss.analysis.effects import Effects, analyse_effects
from isoloss.report.claims import claim_sentences
from isoloss.report.effects import effect_figures, effect_sentences
from isoloss.report.evidence import evidence
from isoloss.report.findings import Findings, find
from isoloss.report.legacy_page import write_report
from isoloss.report.parts import Table
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.report.tables import exact_values
from isoloss.spec.config import RunConfig
from isoloss.spec.hypotheses import RESPONSES, EffectStated, PlateauStated, SpikesStated
from isoloss.spec.study import Study
from isoloss.store.run import State
from isoloss.store.spreadsheet import csv_text
from isoloss.store.tables import StudyResults
from tests.fake_studies import fake_study

NARROWER = EffectStated(says="=Wider <b>is</b> better", kind="effect", factor="n_embd", direction="down")
DROPOUT = EffectStated(says="More dropout is better", kind="effect", factor="dropout", direction="down")
BASE = {"n_layer": 2, "max_iters": 400, "eval_interval": 25}
CUBE: dict[str, tuple[Any, ...]] = {"n_embd": (32, 64), "dropout": (0.0, 0.2), "n_head": (2, 4)}
REPLICATED = Study(
    name="cube", corpus="a.txt", base=BASE, factors=CUBE, seeds=(1, 2, 3), hypotheses=(NARROWER, DROPOUT)
)
SCREENED = Study(name="screen", corpus="a.txt", base=BASE, factors={**CUBE, "bias": (False, True)})


def cube(config: RunConfig, number: int, step: int) -> float:
    """Width −0.2, dropout +0.1, width × heads 0.05 (half the difference of differences), noise of sd 0.005."""
    wide, many = (config.n_embd == 64), (config.n_head == 4)
    noise = float(np.random.default_rng([number, step]).normal(0, 0.005))
    return 2.0 - 0.2 * wide + 0.5 * config.dropout + 0.05 * (wide == many) + 1.0 / (1 + step) + noise


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    results = fake_study(tmp_path_factory.mktemp("findings") / "cube", REPLICATED, {}, cube)
    write_report(results)
    return results


@pytest.fixture(scope="module")
def snapshot(replicated: StudyResults) -> Snapshot:
    return take_snapshot(replicated)


@pytest.fixture(scope="module")
def findings(snapshot: Snapshot) -> Findings:
    return find(snapshot)


@pytest.fixture(scope="module")
def page(replicated: StudyResults) -> str:
    return replicated.paths.report.read_text(encoding="utf-8")


def rows_with(spec: Any, column: str) -> list[dict[str, Any]]:
    """The rows inside a specification that have a column."""
    if isinstance(spec, dict):
        return rows_with([*spec.values()], column)
    if not isinstance(spec, list) or not spec:
        return []
    if isinstance(spec[0], dict) and column in spec[0]:
        return spec
    return next((rows for each in spec if (rows := rows_with(each, column))), [])


def effects_of(findings: Findings) -> Effects:
    assert isinstance(findings.effects, Effects)
    return findings.effects


def convergence_of(findings: Findings) -> Convergence:
    assert isinstance(findings.convergence, Convergence)
    return findings.convergence


def test_claims_come_first_with_their_verdicts_and_numbers(page: str, findings: Findings) -> None:
    section = page[page.index('<h2 id="claims">') : page.index('<h2 id="method">')]
    assert re.findall(r'class="chip ([\w-]+)"', section)[:2] == ["supported", "contradicted"]
    assert "1 is supported and 1 is contradicted" in section
    wider = findings.claims[0]
    assert wider.estimate and f"−{abs(wider.estimate.value):.4g} [−" in section
    assert wider.estimate.low and wider.estimate.high and wider.estimate.low < -0.2 < wider.estimate.high
    assert wider.sentence in html.unescape(section)
    assert "<b>is</b>" not in section
    assert "One seed" not in section


def test_what_nobody_stated_is_exploratory_and_says_of_how_many(page: str, findings: Findings) -> None:
    assert [claim.says for claim in findings.exploratory] == ["best_val_loss depends on interaction n_embd × n_head"]
    assert len(findings.adjusted) == 6
    section = page[page.index("Exploratory: not stated") : page.index('<h2 id="method">')]
    assert "6 comparisons of the best validation loss" in section
    assert '"chip exploratory"' in section and '"chip supported"' not in section


def test_effects_are_those_of_the_done_runs(snapshot: Snapshot, findings: Findings) -> None:
    effects = effects_of(findings)
    assert effects == analyse_effects(snapshot.table, "best_val_loss", ["n_embd", "dropout", "n_head"], "seed")
    basis, interactions, *_ = effect_sentences(effects)
    assert "24 done runs in 8 cells, with seed as a block" in basis
    assert "1 of 3 two-factor interactions stands out after Holm's correction: n_embd × n_head" in interactions


def test_the_dots_are_sorted_and_say_what_their_bars_are(snapshot: Snapshot, findings: Findings) -> None:
    figures = {figure.name: figure for figure in effect_figures(snapshot, effects_of(findings))}
    assert list(figures) == ["effects", "interactions"]
    dots = figures["effects"]
    assert "n = 24 runs" in dots.caption and "95% t intervals" in dots.caption
    rows = rows_with(dots.spec, "p_holm")
    sizes = [abs(row["value"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True) and len(rows) == 6
    assert rows[0]["label"] == "n_embd: 64 − 32" and rows[0]["kind"] == "main effect"
    assert all(row["low"] < row["value"] < row["high"] for row in rows)
    assert "n_embd × n_head" in figures["interactions"].caption


def test_every_table_of_the_page_is_a_csv_beside_it(page: str, replicated: StudyResults) -> None:
    folder = replicated.paths.report.parent / "tables"
    linked = set(re.findall(r'href="tables/([\w.]+)"', page))
    assert linked == {path.name for path in folder.iterdir()}
    assert {"claims.csv", "effects.csv", "convergence.csv", "convergence_by_run.csv", "runs.csv", "audit.csv"} <= linked
    assert all(len(pl.read_csv(folder / name)) for name in linked)


def test_csv_holds_full_precision_and_no_formulas(replicated: StudyResults, findings: Findings) -> None:
    folder = replicated.paths.report.parent / "tables"
    claims = pl.read_csv(folder / "claims.csv")
    assert claims["statement"][0] == "'=Wider <b>is</b> better"
    estimate = findings.claims[0].estimate
    assert estimate and claims["value"][0] == estimate.value and claims["low"][0] == estimate.low
    assert claims["stated"].to_list() == [True, True, False]
    assert claims["run_ids"][0].split(" ") == list(findings.claims[0].run_ids)
    effects = pl.read_csv(folder / "effects.csv")
    assert effects["p_holm"].to_list() == [effect.p_holm for effect in effects_of(findings).effects]


@pytest.mark.parametrize("word", ["=1+1", "+a", "-a", "@a", "\tb", "\rb", "-1+2", "-0x1"])
def test_cells_a_spreadsheet_would_run_are_text(word: str) -> None:
    written = csv_text(exact_values(Table(("a", "b"), [(word, "-0.5")])))
    read = pl.read_csv(io.StringIO(written), infer_schema=False)
    assert read["a"][0] == f"'{word}" and read["b"][0] == "-0.5"


def test_an_unreplicated_cube_is_screened(tmp_path: Path) -> None:
    def plain(config: RunConfig, number: int, step: int) -> float:
        return cube(config, number, step) - 0.05 * ((config.n_embd == 64) == (config.n_head == 4))

    snapshot = take_snapshot(fake_study(tmp_path, SCREENED, {}, plain))
    findings = find(snapshot)
    effects = effects_of(findings)
    figures = {figure.name: figure for figure in effect_figures(snapshot, effects)}
    assert list(figures) == ["effects", "half_normal"]
    assert "Screening only" in figures["effects"].caption
    rows = rows_with(figures["half_normal"].spec, "kind")
    assert {row["label"] for row in rows} == {"n_embd", "dropout", ""} and len(rows) == 15
    none_stated, one_seed = claim_sentences(snapshot, findings)
    assert "stated no hypotheses" in none_stated
    assert "One seed: every combination of settings was trained once" in one_seed
    assert any("None of 6 two-factor interactions stands out" in said for said in effect_sentences(effects))


def test_a_stated_plateau_sets_the_tolerance(tmp_path: Path) -> None:
    stated = PlateauStated(says="flat", kind="plateau", by_step=200, tolerance=0.03)
    study = Study(name="one", corpus="a.txt", base=BASE, seeds=(1, 2), hypotheses=(stated,))
    assert convergence_of(find(take_snapshot(fake_study(tmp_path, study, {}, cube)))).tolerance == 0.03


def test_each_curve_is_read_once_however_often_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = take_snapshot(fake_study(tmp_path, REPLICATED, {5: ("diverged", "loss")}, cube))
    reads: Counter[str] = Counter()
    for name in ("metrics", "evals"):
        original = getattr(StudyResults, name)

        def counted(self: StudyResults, run: str, original: Any = original, name: str = name) -> pl.DataFrame:
            reads[f"{name} {run}"] += 1
            return original(self, run)

        monkeypatch.setattr(StudyResults, name, counted)
    found = evidence(snapshot)
    assert found.convergence(0.02) is found.convergence(0.02)
    found.convergence(0.05)
    assert found.spikes(2.0).spikes == 23  # the slow step 5 of every done run
    assert found.spikes(3.0).times == 3.0
    assert max(count for key, count in reads.items() if key.startswith("metrics")) == 1
    assert len([key for key in reads if key.startswith("metrics")]) == 23
    assert set(RESPONSES) <= set(found.table.columns)
    assert "status" in found.table.columns and set(found.table["status"]) == {"done"}


def test_the_slow_steps_of_a_stack_count_once(tmp_path: Path) -> None:
    snapshot = take_snapshot(fake_study(tmp_path, REPLICATED, {}, cube))
    one, *others = [snapshot.results.paths.run(run).metrics for run in snapshot.done["run_id"]]
    for other in others[:3]:
        other.write_bytes(one.read_bytes())
    assert evidence(snapshot).spikes(2.0).spikes == len(others) + 1 - 3


def test_the_audit_of_replicated_runs_rests_on_their_own_noise(tmp_path: Path) -> None:
    found = find(take_snapshot(fake_study(tmp_path, REPLICATED, {}, cube)))
    assert isinstance(found.effects, Effects) and found.effects.error is not None
    said = next(finding.text for finding in found.audit if finding.code == "cost")
    assert f"sd {found.effects.error.sd:.4g} nats (measured in these runs" in said


def test_a_damaged_run_is_listed_and_the_rest_reported(tmp_path: Path) -> None:
    results = fake_study(tmp_path, REPLICATED, {}, cube)
    run = results.paths.run(results.summary()["run_id"][3])
    run.metrics.write_bytes(run.metrics.read_bytes().replace(b"3.0", b"?.0", 1))
    page = write_report(results).page.read_text(encoding="utf-8")
    assert "23 done, 0 failed, 0 diverged and 1 damaged" in page and f"{run.metrics}: damaged, not the" in page


@pytest.mark.parametrize("state", ["pending", "failed", "running"])
def test_a_study_without_a_done_run_says_so_everywhere(tmp_path: Path, state: State) -> None:
    study = Study(name="cube", corpus="a.txt", base=BASE, factors=CUBE, hypotheses=(
        NARROWER, PlateauStated(says="flat", kind="plateau", by_step=200), SpikesStated(says="spiky", kind="spikes")
    ))  # fmt: skip
    results = fake_study(tmp_path, study, dict.fromkeys(range(8), (state, "why")), cube)
    page = write_report(results).page.read_text(encoding="utf-8")
    assert "Of 3 hypotheses stated beforehand, 3 are not resolved, judged by 0 done runs" in page
    assert "0 runs done: an effect is a difference" in page
    assert "Nothing to say of convergence: no run is done." in page
    assert '"chip supported"' not in page and '"chip contradicted"' not in page
    body = page[page.index("<body>") : page.index('<script type="module">')]
    assert not re.search(r"\b(nan|NaN|None|inf)\b", body)


@pytest.mark.parametrize("factors", [{}, {"n_embd": (64,)}])
def test_a_lone_run_makes_no_claims(tmp_path: Path, factors: dict[str, tuple[Any, ...]]) -> None:
    study = Study(name="lone", corpus="a.txt", base=BASE, factors=factors)
    results = fake_study(tmp_path, study, {}, cube)
    page = write_report(results).page.read_text(encoding="utf-8")
    assert "The study varies no factor, so there is no effect to estimate." in page
    assert "The study stated no hypotheses" in page
    assert "these runs hold no effect that can be tested" in page
    assert not (results.paths.report.parent / "tables" / "claims.csv").exists()


def test_the_audit_is_on_the_page(page: str, findings: Findings) -> None:
    section = page[page.index('<h2 id="audit">') : page.index('<h2 id="samples">')]
    codes = [finding.code for finding in findings.audit]
    assert "n_head_same_params" in codes and "epochs" in codes
    assert all(f"<td>{code}</td>" in section for code in codes)
    assert all(html.escape(finding.remedy, quote=False) in html.unescape(section) for finding in findings.audit)
