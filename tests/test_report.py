"""The report of a study: its page, what stands in its chapters, and that they say what the runs' files hold."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

from isoloss.analysis.convergence import Convergence
from isoloss.errors import StoreError
from isoloss.files import write_checksummed
from isoloss.report.chapters.answer import answer_chapter
from isoloss.report.chapters.design import design_chapter
from isoloss.report.chapters.runs import runs_chapter
from isoloss.report.chart import colour_by, log_axis, log_ticks, spaced
from isoloss.report.colours import CATEGORIES, SEQUENCE, factor_colours
from isoloss.report.findings import Findings, find
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.report.study_report import study_chapters, write_report
from isoloss.store.run import State
from isoloss.store.tables import StudyResults
from isoloss.study.config import RunConfig
from isoloss.study.hypotheses import EffectStated, PlateauStated
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from tests.fake_studies import fake_study, write_rows

ATTACK = "<script>alert(1)</script>"
CHAPTERS = [
    "answer", "claims", "every-run", "effects", "convergence", "scaling", "speed", "samples", "design", "method",
    "provenance", "references",
]  # fmt: skip
WIDER = EffectStated(says="=Wider <b>is</b> better", kind="effect", factor="n_embd", direction="down")
DROPOUT = EffectStated(says="More dropout is better", kind="effect", factor="dropout", direction="down")
FACTORIAL = Study(
    name="widths",
    corpus="tinyshakespeare",
    description=f"Does width matter? {ATTACK}",
    base={"n_layer": 2, "max_iters": 40, "eval_interval": 20},
    factors={"n_embd": (32, 64), "dropout": (0.0, 0.2)},
    seeds=(1337, 1338),
    hypotheses=(WIDER, DROPOUT),
)
LOST: dict[int, tuple[State, str]] = {
    1: ("failed", "RuntimeError: <b>out of memory</b>"),
    3: ("diverged", "loss is not finite at step 7"),
}


def noisy(config: RunConfig, number: int, step: int) -> float:
    """Width lowers the loss by 0.2, dropout raises it by 0.1, noise of sd 0.002."""
    noise = float(np.random.default_rng([number, step]).normal(0, 0.002))
    return 2.0 - 0.2 * (config.n_embd == 64) + 0.5 * config.dropout + 1.0 / (1 + step) + noise


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    results = fake_study(tmp_path_factory.mktemp("studies") / "widths", FACTORIAL, LOST, noisy)
    best = results.summary().sort("best_val_loss", nulls_last=True)["run_id"][0]
    write_checksummed(results.paths.run(best).samples, f"ROMEO:\n</pre>{ATTACK} & more")
    return results


@pytest.fixture(scope="module")
def page(results: StudyResults) -> str:
    return write_report(results).page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def snapshot(results: StudyResults) -> Snapshot:
    return take_snapshot(results)


@pytest.fixture(scope="module")
def findings(snapshot: Snapshot) -> Findings:
    return find(snapshot)


def words(markup: str) -> str:
    """The text of a page without its scripts, styles and tags."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", "", markup, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", bare)))


def chapter_text(page: str, chapter: str) -> str:
    found = re.search(rf'<section id="{chapter}".*?</section>', page, re.S)
    assert found, chapter
    return words(found[0])


def test_chapters_stand_in_their_order(page: str) -> None:
    assert re.findall(r'<section id="([\w-]+)"', page) == CHAPTERS


def test_the_page_opens_with_the_question_and_sentences_that_answer_it(page: str, snapshot: Snapshot) -> None:
    assert page.index('class="question"') < page.index('<section id="answer"') < page.index('<section id="claims"')
    said = chapter_text(page, "answer")
    best = snapshot.ranking.row(0, named=True)
    assert best["n_embd"] == 64 and best["dropout"] == 0.0
    assert "n_embd matters most: 64" in said
    assert f"{best['mean']:.4f} nats per token (mean of 2 seeds" in said and "n_embd 64 · dropout 0.0" in said
    assert "2 of 8 runs failed or diverged" in said


def test_every_figure_stands_on_the_page_and_in_the_files_of_a_paper(
    page: str, results: StudyResults, snapshot: Snapshot, findings: Findings
) -> None:
    folder = results.paths.report.parent / "paper"
    names = [figure.name for chapter in study_chapters(snapshot, findings) for figure in chapter.figures]
    assert {"effects", "levels"} <= set(names) and len(set(names)) == len(names)
    for name in names:
        figure = re.search(rf'<figure id="figure-{name}">.*?</figure>', page, re.S)
        assert figure and figure[0].count("<svg") == 2 and 'role="img" aria-label="' in figure[0]
        for size in ("3.3in", "6.75in"):
            assert (folder / f"{name}-{size}.pdf").read_bytes().startswith(b"%PDF")
            assert f'href="paper/{name}-6.75in.pdf"' in figure[0]


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    markup = re.sub(r"(<script\b[^>]*>).*?</script>", r"\1", page, flags=re.S)
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", markup)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    assert not re.search(r"<[^>]+\sstyle=", markup)


def test_text_from_the_study_and_the_runs_is_escaped(page: str) -> None:
    assert ATTACK not in page and html.escape(ATTACK) in page
    assert "&lt;/pre&gt;" in page
    assert "<b>out of memory" not in page and "<b>is</b>" not in page


def test_claims_come_with_their_verdicts_and_numbers(page: str, findings: Findings) -> None:
    wider, dropout = findings.claims
    assert (wider.verdict, dropout.verdict) == ("supported", "contradicted")
    assert wider.estimate and wider.estimate.low and wider.estimate.high
    assert wider.estimate.low < -0.2 < wider.estimate.high
    section = page[page.index('<section id="claims"') : page.index('<section id="every-run"')]
    assert re.findall(r'class="chip ([\w-]+)"', section)[:2] == ["supported", "contradicted"]
    assert "1 is supported and 1 is contradicted" in section
    assert (
        f"−{abs(wider.estimate.value):.4g} [−{abs(wider.estimate.low):.4g}, −{abs(wider.estimate.high):.4g}]" in section
    )
    assert html.escape(wider.sentence.split(";")[0], quote=False) in section


def test_no_claim_is_judged_while_runs_are_missing(tmp_path: Path) -> None:
    states: dict[int, tuple[State, str]] = {7: ("pending", ""), 6: ("running", "")}
    results = fake_study(tmp_path, FACTORIAL, states, noisy)
    found = find(take_snapshot(results))
    assert {claim.verdict for claim in found.claims} == {"not judged yet"} and found.exploratory == []
    assert all(claim.estimate is None and claim.p_adjusted is None for claim in found.claims)
    assert "2 of 8 runs are still to be trained" in found.claims[0].sentence
    assert "2 are not judged yet" in chapter_text(write_report(results).page.read_text(), "claims")


def test_unfinished_runs_are_counted_and_shown_with_their_reasons(page: str) -> None:
    said = chapter_text(page, "provenance")
    assert "6 done, 1 failed and 1 diverged" in said
    assert "loss is not finite at step 7" in said and "RuntimeError: <b>out of memory</b>" in said


def test_the_numbers_of_the_page_are_those_of_the_table(page: str, snapshot: Snapshot) -> None:
    said = chapter_text(page, "every-run")
    for value in snapshot.done["best_val_loss"]:
        assert f"{value:.4f}" in said


def test_configurations_have_the_mean_of_their_runs_and_its_t_interval(snapshot: Snapshot) -> None:
    row = snapshot.configurations.filter((pl.col("n_embd") == 64) & (pl.col("dropout") == 0.2)).row(0, named=True)
    values = snapshot.done.filter((pl.col("n_embd") == 64) & (pl.col("dropout") == 0.2))["best_val_loss"].to_list()
    assert row["key"] == "c4" and row["runs"] == row["done"] == row["n"] == 2
    assert row["mean"] == pytest.approx(sum(values) / 2)
    reach = 12.7062 * abs(values[0] - values[1]) / 2  # t at 97.5% on 1 degree of freedom, sd / sqrt(2) = half the range
    assert row["high"] - row["mean"] == pytest.approx(reach, rel=1e-4)
    assert row["mean"] - row["low"] == pytest.approx(reach, rel=1e-4)
    lone = snapshot.configurations.row(0, named=True)
    assert (lone["runs"], lone["done"], lone["n"], lone["low"], lone["high"]) == (2, 1, 1, None, None)


def test_the_ranking_goes_by_the_mean_over_seeds(tmp_path: Path) -> None:
    def lucky(config: RunConfig, number: int, _: int) -> float:
        return (1.5 if number == 0 else 2.0) + (0.1 if config.n_embd == 32 else 0.0) + 0.2 * (number == 1)

    study = Study(
        "lucky", "a.txt", base={"max_iters": 20}, factors={"n_embd": (32, 64)}, seeds=(1, 2, 3, 4, 5, 6, 7, 8)
    )
    snapshot = take_snapshot(fake_study(tmp_path, study, {}, lucky))
    best = snapshot.done.sort("best_val_loss").row(0, named=True)
    assert best["n_embd"] == 32
    assert snapshot.ranking["mean"].is_sorted()
    assert snapshot.ranking["n_embd"].to_list() == [64, 32] and snapshot.ranking["n"].to_list() == [8, 8]


def test_size_is_told_without_embeddings_where_only_they_change(tmp_path: Path) -> None:
    base = {"max_iters": 20, "eval_interval": 20}
    context = Study("context", "a.txt", base=base, factors={"block_size": (16, 32)})
    width = Study("width", "a.txt", base=base, factors={"n_embd": (32, 64)})
    assert take_snapshot(fake_study(tmp_path / "a", context, {})).size_column == "params_non_embedding"
    assert take_snapshot(fake_study(tmp_path / "b", width, {})).size_column == "params_total"


def test_an_untouched_study_says_that_there_is_nothing_yet(tmp_path: Path) -> None:
    results = fake_study(tmp_path, FACTORIAL, dict.fromkeys(range(8), ("pending", "")))
    said = words(write_report(results).page.read_text(encoding="utf-8"))
    assert "There is no result yet: of 8 runs, 8 pending and none is done" in said


@pytest.mark.parametrize("state", ["failed", "running", "diverged"])
def test_a_study_with_nothing_done_has_a_page_without_empty_charts(tmp_path: Path, state: State) -> None:
    results = fake_study(tmp_path, FACTORIAL, dict.fromkeys(range(8), (state, "x" * 300)))
    page = write_report(results).page.read_text(encoding="utf-8")
    assert "none is done" in words(page) and "figure-effects" not in page and "figure-levels" not in page
    assert "lowest validation loss so far" in words(page)


@pytest.mark.parametrize("factors", [{}, {"n_embd": (64,)}])
def test_a_lone_run_is_reported_without_effects(tmp_path: Path, factors: dict[str, tuple[int, ...]]) -> None:
    study = Study(name="lone", corpus="a.txt", base={"max_iters": 20, "eval_interval": 20}, factors=factors)
    page = write_report(fake_study(tmp_path, study, {})).page.read_text(encoding="utf-8")
    assert "varies no factor" in chapter_text(page, "effects")
    assert 'class="question"' not in page


def test_what_is_too_close_to_the_best_is_counted_and_all_else_is_not(tmp_path: Path) -> None:
    """64 and 96 wide differ by less than the noise, 32 by far more than that."""

    def answer(levels: tuple[int, ...]) -> str:
        base = {"n_layer": 2, "max_iters": 40, "eval_interval": 20}
        study = Study(name="w", corpus="a.txt", base=base, factors={"n_embd": levels}, seeds=(1, 2, 3))

        def loss(config: RunConfig, number: int, step: int) -> float:
            noise = float(np.random.default_rng([number, step]).normal(0, 0.01))
            return {32: 2.5, 64: 2.0, 96: 2.0}[config.n_embd] + 1 / (1 + step) + noise

        taken = take_snapshot(fake_study(tmp_path / str(len(levels)), study, {}, loss))
        found = find(taken)
        chapters = (answer_chapter(taken, []), runs_chapter(taken))
        return " ".join(
            [*(each for one in chapters for each in one.answer), *design_chapter(taken, found.audit).details]
        )

    said = answer((32, 64, 96))
    assert re.search("1 other configuration cannot be told from it by [0-9]+ seeds", said)
    assert "Runs see between" not in said  # all see the same number of tokens
    of_two = answer((32, 64))
    assert "every other configuration is worse by more than chance explains" in of_two
    assert "The next, n_embd 32, is 0.4" in of_two or "The next, n_embd 32, is 0.5" in of_two


def test_plateaus_have_the_tolerance_that_a_hypothesis_states(snapshot: Snapshot, findings: Findings) -> None:
    assert isinstance(findings.convergence, Convergence) and findings.convergence.tolerance == 0.02
    stated = PlateauStated(says="All is flat", kind="plateau", by_step=20, tolerance=0.3)
    study = replace(snapshot.study, hypotheses=(stated,))
    wider = find(replace(snapshot, results=replace(snapshot.results, study=study)))
    assert isinstance(wider.convergence, Convergence) and wider.convergence.tolerance == 0.3


def test_a_damaged_study_is_one_line(tmp_path: Path) -> None:
    results = fake_study(tmp_path, FACTORIAL, {})
    results.paths.provenance.unlink()
    with pytest.raises(StoreError, match="provenance"):
        write_report(results)


def test_the_audit_is_told_the_noise_that_the_runs_show(page: str, findings: Findings) -> None:
    said = next(one.text for one in findings.audit if one.code == "cost")
    assert "measured in these runs" in said and said in chapter_text(page, "design")


@pytest.mark.usefixtures("page")
def test_csv_files_hold_full_precision_and_no_formulas(results: StudyResults, findings: Findings) -> None:
    claims = pl.read_csv(results.paths.report.parent / "paper" / "claims.csv")
    wider = findings.claims[0]
    assert wider.estimate and claims["value"][0] == wider.estimate.value and claims["p"][0] == wider.p
    assert claims["statement"][0] == "'" + wider.says


def test_a_run_that_is_running_and_leads_does_not_rank(tmp_path: Path) -> None:
    states: dict[int, tuple[State, str]] = {4: ("running", "")}
    results = fake_study(tmp_path, FACTORIAL, states, noisy)
    leader = results.configs[4]
    rows: list[dict[str, Any]] = [{"step": 5, "train_loss": 0.5, "val_loss": 0.5, "eval_time_s": 1.0}]
    write_rows(results.paths.run(run_id(leader)).evals, rows)
    assert 0.5 not in take_snapshot(results).ranking["lowest"].to_list()


@pytest.mark.parametrize(("low", "high"), [(23_000.0, 512_000.0), (6.5e5, 3.8e6), (1e3, 1e12), (20.0, 24.0)])
def test_logarithmic_ticks_are_few(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 10
    assert all(low <= tick <= high for tick in ticks)


def test_a_logarithmic_axis_holds_the_data_and_little_more() -> None:
    for values in ([2.0, 50.0, 700.0], [9.0, 10.0]):
        low, high = log_axis(pl.Series(values))["scale"].to_dict()["domain"]
        assert values[0] / 2 < low < values[0] and values[-1] < high < 2 * values[-1]


def test_levels_have_colours_of_their_own() -> None:
    colours = factor_colours({"bias": (False, True), "n_embd": (32, 64, 128), "corpus": ("a", "b")})
    words = [*colours["bias"].values(), *colours["corpus"].values()]
    assert words == list(CATEGORIES[:4])
    assert list(colours["n_embd"].values()) == [SEQUENCE[0], SEQUENCE[3], SEQUENCE[-1]]
    shown, hidden = (cast(Any, colour_by("level", colours["bias"], title="bias", legend=on)) for on in (True, False))
    assert shown.to_dict()["legend"]["title"] == "bias" and hidden.to_dict()["legend"] is None


def test_seeds_have_the_colours_of_labels() -> None:
    colours = factor_colours({"init_seed": (1, 2, 10), "n_embd": (1, 2, 10)})
    assert list(colours["init_seed"].values()) == list(CATEGORIES[:3])
    assert {*colours["n_embd"].values()} <= {*SEQUENCE}


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    placed = spaced([1.0, 1.1, 5.0, 1.05], 0.5)
    assert sorted(range(4), key=placed.__getitem__) == [0, 3, 1, 2]
    assert min(b - a for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False)) > 0.49
    assert placed[2] == pytest.approx(5.0) and json.dumps(placed)
