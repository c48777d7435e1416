"""The verb that checks a parametrization: whether a few steps change a model more, the wider it is."""

from __future__ import annotations

from typing import Annotated

from isoloss.cli.arguments import Flag, OptionalInt, OutFolder, Plugins, Repeated, StudyName, named
from isoloss.terminal import say


def coordcheck(
    study: StudyName,
    /,
    *,
    set: Annotated[Repeated, named("SETTING=VALUE", "")] = (),
    seeds: Annotated[OptionalInt, named("N", "as the study says")] = None,
    plugin: Plugins = (),
    steps: int = 10,
    offline: Flag = False,
    json: Flag = False,
    out: OutFolder = None,
) -> int:
    """Check whether what a few steps change grows with a model's width, as it does not under mup; keeps no run.

    Example: isoloss coordcheck transfer --set learning_rate=4e-3

    Args:
        study: A study file (YAML), or the name of a built-in one, with two or more levels of n_embd; the first cell of
            each parametrization and width is trained.
        set: Change a setting of the study, such as learning_rate=4e-3; a factor that is set is no longer varied.
        seeds: Number of seeds for each cell.
        plugin: A norm, MLP, optimizer or positions of your own that the study names; its file is run. May be repeated.
        steps: Optimizer steps before activations are compared with those of the untrained model.
        offline: Fetch nothing; use what is in the cache.
        json: Print one JSON object at full precision in place of text.
        out: A new or empty folder for a page and the files of its figures, tables and method.
    """
    from isoloss.analysis.coordinates import coordinate_check
    from isoloss.cli.analysis_output import check_out, conclude
    from isoloss.cli.verbs import study_of
    from isoloss.data.tokens import prepare
    from isoloss.errors import ConfigError
    from isoloss.execution.coordinates import activation_changes
    from isoloss.report.chapters.coordinates import coordinates_as_json, coordinates_chapter

    check_out(out)
    if steps < 1:
        raise ConfigError(f"--steps {steps}: at least 1 is needed", ("steps",))
    found = study_of(study, seeds, set, plugin)
    dataset, text = next(iter(found.datasets.items()))
    tokens = prepare(text, dataset.tokenizer, offline=offline, say=say)
    check = coordinate_check(activation_changes(found, tokens, steps, say), steps)
    return conclude(lambda: coordinates_chapter(check), coordinates_as_json(check) if json else None, out, found.name)
