"""The verbs that analyse a study directory or anyone's table: effects, fit, convergence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from isoloss.cli.terminal import say, show

Points = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


def effects(
    table: tyro.conf.Positional[Path],
    /,
    *,
    response: str,
    factors: str,
    block: str | None = None,
    target: float | None = None,
    json: bool = False,
) -> int:
    """Main effects and two-factor interactions of a study or of any table with one row a run.

    Args:
        table: A study directory, a CSV or a Parquet file.
        response: Column of what was measured.
        factors: Columns of what was varied, as a,b,c.
        block: Column of the seed, or of whatever else every cell was run with.
        target: A loss; gives the runs of a study the response steps_to_target.
        json: Print one JSON object at full precision.
    """
    from isoloss.analysis.effects import analyse_effects
    from isoloss.analysis.pairs import paired_effects
    from isoloss.cli.tables import STEPS_TO_TARGET, read_runs, varied_factors, with_steps_to_target
    from isoloss.report.chapter import chapter_as_text
    from isoloss.report.chapters.effects import effects_as_json, effects_chapter

    names = [name.strip() for name in factors.split(",") if name.strip()]
    runs = with_steps_to_target(read_runs(table, say), table, target)
    for factor in varied_factors(table, runs):
        if factor not in names:
            say(f"{factor} varies too and is not among --factors: what it changes counts as noise")
    if target is not None and response == STEPS_TO_TARGET and (missed := runs[STEPS_TO_TARGET].null_count()):
        say(f"{missed} of {len(runs)} runs never reached {target:g} and are left out, which flatters slow levels")
    found = analyse_effects(runs, response, names, block)
    pairs = paired_effects(runs, response, [*dict.fromkeys(names)], block)
    show(effects_as_json(found, pairs) if json else chapter_as_text(effects_chapter(found, runs, pairs=pairs)))
    return 0


def fit(
    table: tyro.conf.Positional[Path],
    /,
    *,
    form: Literal["LND", "LN", "LD", "LC"] = "LND",
    floor: bool = True,
    params: str | None = None,
    tokens: str | None = None,
    compute: str | None = None,
    loss: str | None = None,
    objective: Literal["huber", "ls", "lad"] = "huber",
    delta: float = 1e-3,
    intervals: Literal["delta", "bootstrap"] = "delta",
    isoflop: Literal["cubic", "parabola"] = "cubic",
    predict: Points = (),
    holdout: Literal["none", "largest"] = "none",
    json: bool = False,
) -> int:
    """Fit a scaling law to a study or to any table with one row a run.

    Args:
        table: A study directory, a CSV or a Parquet file.
        form: LND is L = E + A/N^alpha + B/D^beta; LN, LD and LC are the power laws in one variable.
        floor: Whether the law has a floor E; --no_floor fits it without.
        params: Column of N; of a study params_non_embedding, else N.
        tokens: Column of D; of a study train_tokens, else D.
        compute: Column of C in FLOPs; of a study train_flops, else C.
        loss: Column of the loss; of a study final_val_loss, else loss.
        objective: Huber on log residuals, least squares on losses, or least absolute deviations.
        delta: Huber's delta.
        intervals: By the delta method or by bootstrap.
        isoflop: Curve through runs of equal compute; a parabola is biased.
        predict: A point to predict at, like N=1e8,D=2e9; may be repeated.
        holdout: Fit without the largest size, and predict it.
        json: Print one JSON object at full precision.
    """
    from isoloss.cli.fit import answer_as_json, answer_as_text
    from isoloss.cli.fitting import answer_question, question_columns
    from isoloss.cli.tables import is_study, read_runs

    given = {"N": params, "D": tokens, "C": compute, "loss": loss}
    runs = read_runs(table, say)
    answer = answer_question(
        runs,
        form,
        question_columns(given, runs, study=is_study(table)),
        floor=floor,
        objective=objective,
        delta=delta,
        intervals=intervals,
        curve=isoflop,
        points=predict,
        holdout=holdout == "largest",
    )
    show(answer_as_json(answer) if json else answer_as_text(answer))
    return 0


def convergence(
    table: tyro.conf.Positional[Path],
    /,
    *,
    run: str = "run",
    step: str = "step",
    loss: str = "loss",
    train_loss: str | None = None,
    target: float | None = None,
    tolerance: float = 0.02,
    json: bool = False,
) -> int:
    """Tell which runs still improve, have plateaued or turned up, and when they reach a loss.

    Args:
        table: A study directory, or a CSV or Parquet file with one row an evaluation.
        run: Column that names the run.
        step: Column of the step.
        loss: Column of the loss.
        train_loss: Column of the training loss, for the gap at the end; of a study train_loss.
        target: A loss to reach.
        tolerance: Nats per doubling of steps below which a run has plateaued.
        json: Print one JSON object at full precision.
    """
    from isoloss.analysis.convergence import analyse_convergence
    from isoloss.cli.convergence import convergence_as_json, convergence_as_text
    from isoloss.cli.tables import is_study, read_curves, read_rates

    analysed = analyse_convergence(
        read_curves(table, say),
        run,
        step,
        loss,
        target=target,
        tolerance=tolerance,
        train_loss=train_loss or ("train_loss" if is_study(table) else None),
        rates=read_rates(table),
    )
    show(convergence_as_json(analysed) if json else convergence_as_text(analysed))
    return 0
