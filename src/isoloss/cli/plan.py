"""What `isoloss plan` prints."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from isoloss.design.audit import audit
from isoloss.design.audit_settings import evaluated_blocks
from isoloss.design.power import SEED_BY_FACTOR
from isoloss.design.trunks import shared_flops
from isoloss.diagnostic import Diagnostic
from isoloss.execution.estimate import Eta, Plan
from isoloss.study import compute
from isoloss.study.config import SETTINGS
from isoloss.study.datasets import dataset_of
from isoloss.study.identity import run_id
from isoloss.wording import between, counted, duration, listed, size

WIDTH = 110
SECONDS_PER_HOUR = 3600
MIN_AUDITED_S = 60.0
"""Of a study, below which nobody minds what its time is spent on."""
MIN_SHOWN_S = 1.0
"""Of the parts of a study's time, which is too short to name."""


def audit_plan(plan: Plan, noise_sd: float | None = None, seed_by_factor: float = SEED_BY_FACTOR) -> list[Diagnostic]:
    """The design audit of a planned study, with its time here. Raises ConfigError for an impossible noise."""
    return audit(
        plan.study,
        plan.configs,
        noise_sd=noise_sd,
        seed_by_factor=seed_by_factor,
        data=plan.data,
        hours=plan.eta.total_s / SECONDS_PER_HOUR,
        evaluation_share=plan.eta.eval_s / plan.eta.total_s if plan.eta.total_s > MIN_AUDITED_S else None,
    )


def plan_as_json(plan: Plan, noise_sd: float | None = None, seed_by_factor: float = SEED_BY_FACTOR) -> str:
    """One object: the study's totals, `audit`, one entry a finding, and `runs`, one entry a run."""
    runs = [
        {
            "run_id": run_id(config),
            "seed": config.seed,
            **{name: getattr(config, name) for name in (*plan.study.varied_texts, *SETTINGS)},
            "params_total": compute.params_total(config),
            "params_non_embedding": compute.params_non_embedding(config),
            "train_tokens": compute.train_tokens(config),
            "train_flops": compute.train_flops(config),
        }
        for config in plan.configs
    ]
    totals = {"study": plan.study.name, "precision": plan.precision, "device": plan.device, "workers": plan.workers}
    totals |= {"eta_s": plan.eta.total_s, "eta": asdict(plan.eta), "disk_bytes": plan.disk_bytes}
    alone, shared = shared_flops(plan.configs)
    totals |= {"disk_cap_bytes": plan.study.disk, "train_flops_alone": alone, "train_flops_shared": shared}
    totals |= {"evaluations_alone": _evaluations_alone(plan), "evaluations_shared": plan.evaluations}
    return json.dumps(
        {**totals, "audit": [_as_entry(each) for each in audit_plan(plan, noise_sd, seed_by_factor)], "runs": runs},
        indent=2,
    )


def plan_as_text(plan: Plan, noise_sd: float | None = None, seed_by_factor: float = SEED_BY_FACTOR) -> str:
    """A table with a line a cell, the totals under it, and the audit."""
    table = Table(box=None, pad_edge=False, title=plan.study.description or None, title_justify="left")
    for heading in (*plan.study.varied, "params", "non-embedding", "tokens", "FLOPs", "step"):
        table.add_column(heading, justify="right")
    for config in plan.configs[:: len(plan.study.seeds)]:
        table.add_row(
            *(str(getattr(config, factor)) for factor in plan.study.varied),
            f"{compute.params_total(config):,}",
            f"{compute.params_non_embedding(config):,}",
            f"{compute.train_tokens(config):,}",
            f"{compute.train_flops(config):.2e}",
            f"{1e3 * plan.step_times_s[run_id(config)]:.1f} ms",
        )
    console = Console(width=WIDTH)
    with console.capture() as captured:
        console.print(table)
    seeds = len(plan.study.seeds)
    alone, shared = shared_flops(plan.configs)
    trained = f"{shared:.2e} training FLOPs"
    if shared < alone:
        trained += f" ({alone:.2e} if no beginnings were shared)"
    evaluated = counted(plan.evaluations, "evaluation")
    if plan.evaluations < _evaluations_alone(plan):
        evaluated += f" ({_evaluations_alone(plan):,} if none were shared)"
    return captured.get() + (
        f"\n{counted(len(plan.configs), 'run')}: {counted(len(plan.configs) // seeds, 'cell')} × "
        f"{counted(seeds, 'seed')}, {plan.precision} on {plan.device}, {counted(plan.workers, 'worker')}\n"
        f"{trained}, {evaluated}, {size(plan.disk_bytes)} of disk, "
        f"about {duration(plan.eta.total_s)}: {_parts(plan.eta)} (measured: a few steps of each shape)\n"
        f"{_capped(plan)}{_splits(plan)}"
        "\n\nAudit\n" + "\n".join(map(_finding_as_text, audit_plan(plan, noise_sd, seed_by_factor)))
    )


def _evaluations_alone(plan: Plan) -> int:
    return sum(map(compute.evaluations, plan.configs))


def _capped(plan: Plan) -> str:
    """What becomes of the checkpoints where the study may not keep them all."""
    cap = plan.study.disk
    if cap is None or plan.disk_bytes <= cap:
        return ""
    return (
        f"disk: {size(cap)} may be kept: finished runs give up optimizer moments, then last checkpoints, as need be\n"
    )


def _parts(eta: Eta) -> str:
    """What a study's time is spent on."""
    spent = {"training": eta.train_s, "evaluation": eta.eval_s, "checkpoints": eta.checkpoint_s, "start": eta.start_s}
    return listed(f"{duration(seconds)} {name}" for name, seconds in spent.items() if seconds >= MIN_SHOWN_S)


def _splits(plan: Plan) -> str:
    """How long the text is, and what of it an evaluation reads."""
    lines: list[str] = []
    for dataset in plan.study.datasets:
        data = plan.data.of(dataset)
        fixed = [config for config in plan.configs if config.eval != "sampled" and dataset_of(config) == dataset]
        blocks = sorted({evaluated_blocks(config, plan.data) for config in fixed})
        read = f", of which an evaluation reads {between(blocks)} blocks" if blocks else ""
        of = f"{plan.study.named(dataset)}: " if plan.data.others else ""
        lines.append(f"{of}{data.train_tokens or 0:,} training tokens, {data.val_tokens or 0:,} of validation{read}")
    return "\n".join(lines)


def _as_entry(found: Diagnostic) -> dict[str, str | None]:
    return {"code": found.code, "sentence": found.text, "remedy": found.remedy, "severity": found.severity}


def _finding_as_text(finding: Diagnostic) -> str:
    """Severity and code on one line, the sentence and its remedy indented under it."""
    indent = "    "
    sentence = textwrap.fill(finding.text, WIDTH, initial_indent=indent, subsequent_indent=indent)
    remedy = textwrap.fill(f"→ {finding.remedy}", WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ")
    return f"  {finding.code} ({finding.severity})\n{sentence}\n{remedy}"
