"""What `isoloss plan` prints."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from isoloss.cli.progress import duration
from isoloss.execution.estimate import Plan
from isoloss.spec import compute
from isoloss.spec.identity import run_id


def plan_as_json(plan: Plan) -> str:
    """One object: the study's totals and `runs`, one entry a run."""
    runs = [
        {
            "run_id": run_id(config),
            "seed": config.seed,
            **{factor: getattr(config, factor) for factor in plan.study.factors},
            "params_total": compute.params_total(config),
            "params_non_embedding": compute.params_non_embedding(config),
            "train_tokens": compute.train_tokens(config),
            "train_flops": compute.train_flops(config),
        }
        for config in plan.configs
    ]
    totals = {"study": plan.study.name, "precision": plan.precision, "device": plan.device, "workers": plan.workers}
    return json.dumps({**totals, "eta_s": plan.eta_s, "disk_bytes": plan.disk_bytes, "runs": runs}, indent=2)


def plan_as_text(plan: Plan) -> str:
    """A table with a line a cell, and the totals under it."""
    table = Table(box=None, pad_edge=False, title=plan.study.description or None, title_justify="left")
    for heading in (*plan.study.factors, "params", "non-embedding", "tokens", "FLOPs", "step"):
        table.add_column(heading, justify="right")
    for config in plan.configs[:: len(plan.study.seeds)]:
        table.add_row(
            *(str(getattr(config, factor)) for factor in plan.study.factors),
            f"{compute.params_total(config):,}",
            f"{compute.params_non_embedding(config):,}",
            f"{compute.train_tokens(config):,}",
            f"{compute.train_flops(config):.2e}",
            f"{1e3 * plan.step_times_s[run_id(config)]:.1f} ms",
        )
    console = Console(width=110)
    with console.capture() as captured:
        console.print(table)
    seeds = len(plan.study.seeds)
    cells = len(plan.configs) // seeds
    total_flops = sum(compute.train_flops(config) for config in plan.configs)
    return captured.get() + (
        f"\n{len(plan.configs)} runs: {cells} cells × {seeds} seed{'s' if seeds > 1 else ''}, {plan.precision} on "
        f"{plan.device}, {plan.workers} worker{'s' if plan.workers > 1 else ''}\n"
        f"{total_flops:.2e} training FLOPs, {plan.disk_bytes / 1e9:.1f} GB of disk, "
        f"about {duration(plan.eta_s)} (measured: a few steps of each shape)"
    )
