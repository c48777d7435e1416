"""What `isoloss compact` prints."""

from __future__ import annotations

from isoloss.execution.compacting import Compacted, Keep
from isoloss.wording import counted, listed, size

CONSEQUENCES = """\
These runs are not trained again: status, report, sample, export and a study that grows need no more than is kept.
No longer possible: a run at a constant rate that is given more steps trains anew, and nanoGPT's train.py cannot go on
from an exported run, only its sample.py."""
WITHOUT_LAST = "\nLast checkpoints that are not the best can no longer be exported."


def compacted_as_text(found: Compacted, keep: Keep, *, dry_run: bool) -> str:
    """What finished runs held, hold now or would hold, what was left alone, and what can no longer be done."""
    freed = size(found.before - found.after)
    verbs = ("hold", "would hold", "would be freed") if dry_run else ("held", "hold now", "freed")
    runs = counted(found.finished, "finished run")
    lines = [f"{runs} {verbs[0]} {size(found.before)}, {verbs[1]} {size(found.after)}: {freed} {verbs[2]}"]
    if found.unfinished:
        lines.append(f"left as they are: {listed(f'{n:,} {state}' for state, n in found.unfinished.items())}")
    if found.finished:
        lines.append(CONSEQUENCES + (WITHOUT_LAST if keep == "best_weights" else ""))
    return "\n".join(lines)
