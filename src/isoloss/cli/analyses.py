"""The verbs that analyse a study directory or anyone's table: effects, fit, convergence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from isoloss.cli.analysis_output import check_out, conclude, spare_the_processor
from isoloss.cli.arguments import Flag, OptionalFloat, OptionalText, OutFolder, Repeated, Table, named
from isoloss.terminal import say
from isoloss.wording import listed

if TYPE_CHECKING:
    pass

Points = Annotated[Repeated, named("N=X,D=X", "")]
Column = Annotated[str, named("COLUMN")]
Columns = Annotated[str, named("COLUMN,...")]
OptionalColumn = Annotated[OptionalText, named("COLUMN", "")]
OptionalColumns = Annotated[OptionalText, named("COLUMN,...", "")]
Loss = Annotated[OptionalFloat, named("X", "")]


def effects(
    table: Table,
    /,
    *,
    response: OptionalColumn = None,
    factors: OptionalColumns = None,
    block: OptionalColumn = None,
    target: Loss = None,
    tuned: OptionalColumns = None,
    run: OptionalColumns = None,
    reduce: Literal["none", "last", "min", "max"] = "none",
    step: OptionalColumn = None,
    where: Annotated[OptionalText, named("CONDITION", "")] = None,
    scale: Literal["raw", "log", "rank"] = "raw",
    json: Flag = False,
    out: OutFolder = None,
) -> int:
    """Estimate main effects, interactions and best values, of a study or of any table with one row a run.

    Numbers that seldom repeat, as in random search, and more than twelve factors give a response surface.

    Example: isoloss effects runs.csv --response loss --factors width,dropout --block seed

    Args:
        table: A study directory, a file (CSV, JSON lines, Parquet, or one of them gzipped), or - for standard input.
        response: Column of what was measured; of a study such as tokens_per_s, by default best_val_loss, of several
            tokenizers best_val_bpb.
        factors: Columns of what was varied, separated by commas; of a study by default its factors.
        block: Column of the seed, or of another block in which each cell was run once; of a study's factors seed.
        target: A loss; gives the runs of a study the response steps_to_target, at which a run first gets to it.
        tuned: Columns of settings that were tried at several values: levels are compared each at the best one, by the
            mean response. Of a study those that it tunes and that are no factors here, by best_val_loss.
        run: Columns that together name a run, where rows are evaluations of runs; used with --reduce.
        reduce: Which evaluation stands for its run: the last, or that with the lowest or highest response.
        step: Column of the step, by which an evaluation is the last; else one called step, else the rows' order.
        where: Rows to analyse, such as "loss < 10 and optimizer == 'adamw'".
        scale: raw: the response as it is; log: its natural logarithm, so that effects are ratios; rank: its rank among
            all runs, in which none lies far off.
        json: Print one JSON object at full precision in place of text.
        out: A new or empty folder for a page and the files of its figures, tables and method.
    """
    spare_the_processor()
    from isoloss.analysis.effects import analyse_effects
    from isoloss.analysis.factorial_table import check_roles
    from isoloss.analysis.pairs import paired_effects
    from isoloss.analysis.response_scale import OF_RANKS, on_scale
    from isoloss.analysis.response_surface import analyse_surface, needs_surface
    from isoloss.analysis.where import rows_where
    from isoloss.cli.tables import (
        STEPS_TO_TARGET,
        at_best,
        one_row_a_run,
        read_runs,
        roles,
        varied_factors,
        with_steps_to_target,
    )
    from isoloss.report.chapters.effects import effects_as_json, effects_chapter
    from isoloss.report.chapters.surface import surface_as_json, surface_chapter
    from isoloss.study.datasets import PER_TOKEN, compared_loss, datasets_in

    check_out(out)
    every = with_steps_to_target(read_runs(table, say), table, target)
    response, names, block = roles(table, every, response, factors, block)
    rows = every if where is None else rows_where(every, where)
    if len(rows) < len(every):
        say(f"{len(rows):,} of {len(every):,} rows meet --where {where}")
    runs = one_row_a_run(rows, response, run, None if reduce == "none" else reduce, step)
    if len(runs) < len(rows):
        say(f"{len(rows):,} rows are reduced to {len(runs):,} runs, each by its {reduce} {response}")
    runs, tried, of_best = at_best(table, runs, names, tuned, response)
    if tried:
        say(f"{len(runs):,} runs are those at the best {listed(tried)}")
    for factor in varied_factors(table, runs):
        if factor not in names and factor not in tried:
            say(f"{factor} varies too and is not among --factors: what it changes counts as noise")
    if response in PER_TOKEN and compared_loss(datasets_in(runs)) == "val_bpb":
        say(
            f"{response} is per token, which does not compare between tokenizers or texts; best_val_bpb and "
            "final_val_bpb do"
        )
    if target is not None and response == STEPS_TO_TARGET and (missed := runs[STEPS_TO_TARGET].null_count()):
        say(f"{missed} of {len(runs)} runs never reached {target:g} and are left out, which flatters slow levels")
    said = [OF_RANKS] if scale == "rank" else []
    check_roles(response, names, block)
    surfaces = needs_surface(runs, names)
    runs, response = on_scale(runs, response, scale)
    if surfaces:
        surface = analyse_surface(runs, response, names)
        surface = replace(surface, scale=scale, cautions=(*surface.cautions, *said, *of_best))
        return conclude(lambda: surface_chapter(surface), surface_as_json(surface) if json else None, out, table)
    found = analyse_effects(runs, response, names, block)
    found = replace(found, scale=scale, tuned=tuple(tried), cautions=(*found.cautions, *said, *of_best))
    pairs = paired_effects(runs, response, [*dict.fromkeys(names)], block)
    text = effects_as_json(found, pairs) if json else None
    return conclude(lambda: effects_chapter(found, runs, pairs=pairs, figures=out is not None), text, out, table)


def fit(
    table: Table,
    /,
    *,
    form: Literal["LND", "LN", "LD", "LC", "LNDX", "LNDU", "LNDUN", "LNDK"] = "LND",
    floor: Flag = True,
    params: Annotated[OptionalText, named("COLUMN", "N; of a study params_non_embedding")] = None,
    tokens: Annotated[OptionalText, named("COLUMN", "D; of a study train_tokens")] = None,
    compute: Annotated[OptionalText, named("COLUMN", "C; of a study train_flops")] = None,
    loss: Annotated[OptionalText, named("COLUMN", "loss; of a study final_val_loss")] = None,
    unique: Annotated[OptionalText, named("COLUMN", "none; of a study unique_tokens")] = None,
    weight: OptionalColumn = None,
    cluster: OptionalColumn = None,
    by: OptionalColumn = None,
    where: Annotated[OptionalText, named("CONDITION", "")] = None,
    tie: Annotated[Repeated, named("NAME=NAME", "")] = (),
    fix: Annotated[Repeated, named("NAME=X", "")] = (),
    objective: Literal["huber", "ls", "lad", "ls_log"] = "huber",
    delta: float = 1e-3,
    intervals: Literal["delta", "bootstrap"] = "delta",
    isoflop: Literal["cubic", "parabola"] = "cubic",
    isoflop_tolerance: float = 0.1,
    predict: Points = (),
    holdout: Literal["auto", "largest", "none"] = "auto",
    json: Flag = False,
    out: OutFolder = None,
) -> int:
    """Fit a scaling law to a study or to any table with one row a run.

    Example: isoloss fit runs.csv --params N --tokens D --loss loss --predict N=1e8,D=2e9

    Args:
        table: A study directory, a file (CSV, JSON lines, Parquet, or one of them gzipped), or - for standard input.
        form: LND: L = E + A/N^alpha + B/D^beta; LN, LD and LC: the power law in one variable; LNDX: LND with a term
            G/(N^alpha D^beta); LNDU: LND with repeated tokens worth less (--unique); LNDUN: and
            parameters beyond the best number for those; LNDK: Kaplan's.
        floor: Fit the law without its floor E.
        params: Column of N, parameters.
        tokens: Column of D, training tokens.
        compute: Column of C, training FLOPs; without a column of tokens, D is C/(6N).
        loss: Column of the loss.
        unique: Column of the unique tokens, where some were seen more than once.
        weight: Column of weights: inverse variances of the rows, up to a factor.
        cluster: Column whose rows share an error, such as the run that rows are checkpoints of.
        by: Column; the law is also fitted to the rows of each value, and its parameters compared.
        where: Rows to fit, such as "loss < 3 and optimizer == 'adamw'".
        tie: Exponents to keep equal: alpha=beta.
        fix: A parameter to keep at a value, such as E=1.69; may be given several times.
        objective: huber: Huber loss of log residuals; ls: least squares of losses; lad: least absolute log residuals;
            ls_log: least squares of log losses.
        delta: Where the Huber loss turns from quadratic to linear, in log loss.
        intervals: How intervals are computed: delta method or bootstrap over cells.
        isoflop: Curve through runs of equal compute; a parabola is biased.
        isoflop_tolerance: Computes that differ by no more than this share are one profile.
        predict: A point to predict the loss at, such as N=1e8,D=2e9, or a compute C=1e22; may be given several times.
        holdout: Fit without the largest size and predict it. auto: where the rows allow it; largest: say why else.
        json: Print one JSON object at full precision in place of text.
        out: A new or empty folder for a page and the files of its figures, tables and method.
    """
    spare_the_processor()
    from isoloss.analysis.scaling_results import analyse_scaling
    from isoloss.analysis.solve import make_objective
    from isoloss.analysis.where import rows_where
    from isoloss.cli.fit import choose_columns, parse_point, parse_restrictions, scaling_as_json
    from isoloss.cli.tables import at_best, is_study, read_runs
    from isoloss.errors import ConfigError
    from isoloss.report.chapters.scaling import scaling_chapter

    check_out(out)
    if not delta > 0:
        raise ConfigError(f"--delta {delta:g}: must be above 0")
    if not isoflop_tolerance >= 0:
        raise ConfigError(f"--isoflop_tolerance {isoflop_tolerance:g}: must not be below 0")
    points = [parse_point(text) for text in predict]
    given = {"N": params, "D": tokens, "C": compute, "U": unique, "weight": weight, "cluster": cluster, "loss": loss}
    rows = read_runs(table, say)
    runs = rows if where is None else rows_where(rows, where)
    if len(runs) < len(rows):
        say(f"{len(runs):,} of {len(rows):,} rows meet --where {where}")
    runs, tried, of_best = at_best(table, runs, [], None, "")
    if tried:
        say(f"{len(runs):,} runs are those at the best {listed(tried)}")
    found = analyse_scaling(
        runs,
        form,
        choose_columns(given, runs, study=is_study(table)),
        floor=floor,
        objective=make_objective(objective, delta),
        intervals=intervals,
        curve=isoflop,
        tolerance=isoflop_tolerance,
        points=points,
        by=by,
        restrictions=parse_restrictions(fix, tie),
        holdout=None if holdout == "auto" else holdout == "largest",
    )
    found = replace(found, cautions=[*found.cautions, *of_best])
    return conclude(lambda: scaling_chapter(found), scaling_as_json(found) if json else None, out, table)


def convergence(
    table: Table,
    /,
    *,
    run: Columns = "run",
    step: Column = "step",
    loss: Column = "loss",
    train_loss: Annotated[OptionalText, named("COLUMN", "of a study train_loss, else none")] = None,
    target: Loss = None,
    group: Annotated[OptionalText, named("COLUMN", "of a study the configuration, else all runs")] = None,
    p: float = 0.01,
    lr: Annotated[OptionalText, named("COLUMN", "lr or learning_rate, where there is one")] = None,
    tolerance: float = 0.02,
    json: Flag = False,
    out: OutFolder = None,
) -> int:
    """Classify runs: still improving, plateaued, rising again or diverged; and when each, and their mean, reach a loss.

    Example: isoloss convergence curves.csv --run run --step step --loss val_loss --target 1.9

    Args:
        table: A study directory, a file as for effects with one row an evaluation or a column a run, or -.
        run: Column that names the run, or several that together do, separated by commas.
        step: Column of the step.
        loss: Column of the loss.
        train_loss: Column of the training loss, for the train-validation gap at the end.
        target: A loss to reach, in nats.
        group: Column whose values tell replicates; the mean of each group is tested against the target.
        p: The test counts where its p is at or below this.
        lr: Column of the learning rate, to say whether it was still falling at the end.
        tolerance: Nats per doubling of steps below which a run has plateaued.
        json: Print one JSON object at full precision in place of text.
        out: A new or empty folder for a page and the files of its figures, tables and method.
    """
    spare_the_processor()
    from isoloss.analysis.convergence import analyse_convergence, convergence_as_json
    from isoloss.cli.tables import is_study, read_curves
    from isoloss.report.chapters.convergence import convergence_chapter

    check_out(out)
    study = rates = None
    if is_study(table):
        from isoloss.cli.convergence import of_study
        from isoloss.cli.study_tables import read_rates

        study, rates = of_study(table, group, lr, target), read_rates(table)
    curves = read_curves(table, say, run, step, loss)
    analysed = analyse_convergence(
        curves.table if study is None else study.with_group(curves.table),
        curves.run,
        curves.step,
        curves.loss,
        target=target,
        tolerance=tolerance,
        train_loss=train_loss or ("train_loss" if study else None),
        rates=rates,
        group=study.group if study else group,
        p=p,
        lr=lr,
        rate_falling=study.rate_falling if study else None,
    )
    analysed = replace(analysed, cautions=(*analysed.cautions, *curves.cautions))
    return conclude(
        lambda: convergence_chapter(analysed, study.runs if study else None),
        convergence_as_json(analysed) if json else None,
        out,
        table,
    )
