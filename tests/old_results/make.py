"""Writes a results folder with the isoloss that is installed: one run done, one stopped on its way.

Run once a release, `python tests/old_results/make.py VERSION`; later versions must open what it wrote.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

from isoloss.errors import Interrupted
from isoloss.execution.executor import Inline
from isoloss.execution.study import RunOptions, run_study
from isoloss.report.study_report import write_report

HERE = Path(__file__).parent
TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 40
STUDY = """
name: old
description: Does a release open what an earlier one wrote?
corpus: {corpus}
base: {{n_layer: 1, n_head: 1, n_embd: 8, block_size: 8, batch_size: 2, max_iters: 6, eval_interval: 2, warmup_iters: 1,
       eval_train_tokens: 64, precision: fp32}}
factors: {{dropout: [0.0, 0.5]}}
hypotheses:
  - {{says: Dropout hurts, kind: effect, factor: dropout, direction: up}}
"""


def main(version: str) -> None:
    """Write the folder of a version."""
    folder = HERE / version
    shutil.rmtree(folder, ignore_errors=True)
    (HERE / "text.txt").write_text(TEXT)
    try:
        from isoloss.study.studyfile import parse_study
    except ImportError:
        from isoloss.spec.studyfile import parse_study  # type: ignore[import-not-found,no-redef]
    study = parse_study(STUDY.format(corpus="text.txt"), "make.py")
    asked = itertools.count()
    try:
        options = RunOptions(device="cpu", compile="off")
        run_study(study, folder, options, executor=Inline(), should_stop=lambda: next(asked) >= 12)
    except Interrupted:
        pass
    from isoloss.store.tables import load_study

    write_report(load_study(folder))
    shutil.rmtree(folder / "report")  # it is written anew
    for leftover in (*folder.rglob(".*"),):
        leftover.unlink()


if __name__ == "__main__":
    import os

    os.chdir(HERE)
    main(sys.argv[1])
