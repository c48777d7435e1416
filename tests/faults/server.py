"""Runs a study again and again, each time in a new fork in which the shim injects a fault; one JSON line a request.

Started with the shim preloaded. It imports all there is to import and then only forks, so that a trial costs what its
training costs.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from isoloss.errors import IsolossError
from isoloss.execution.compacting import compact_study
from isoloss.execution.executor import Inline
from isoloss.execution.study import RunOptions, run_study
from isoloss.store.tables import load_study
from isoloss.study.studyfile import find_study
from isoloss.training import loop, saving
from isoloss.training.step import steps_to_next_event
from tests.faults.harness import RecordingDisplay

SHIM: Any = ctypes.CDLL(os.environ["LD_PRELOAD"])
SHIM.fault_counted.restype = SHIM.fault_reads.restype = ctypes.c_long
DAY_S = 86400


def trial(request: dict[str, Any], answer: int) -> None:
    """In the child: arm the shim, run the study, write its outcome."""
    out = Path(request["out"])
    SHIM.fault_arm(
        str(out).encode(),
        ctypes.c_long(request["at"]),
        ctypes.c_int(request["fault"]),
        ctypes.c_long(request["times"]),
        request["record"].encode(),
    )
    jumps = None if request["jumps"] is None else random.Random(request["jumps"])

    def should_stop() -> bool:
        if jumps is not None:
            SHIM.fault_jump(ctypes.c_long(jumps.choice((-DAY_S, 0, DAY_S))))
        return False

    if request["beside"]:  # as on CUDA
        saving.saves_beside_training = lambda device: True
        loop.block_length = lambda members, at, *_: steps_to_next_event(members, at)
    message, options, display = "", RunOptions(device="cpu", stack=request["stack"]), RecordingDisplay()
    try:
        if request["compact"]:
            display.reasons += compact_study(load_study(out), request["compact"]).refused.values()
            results = load_study(out)
        else:
            study = find_study(request["study"])
            results = run_study(study, out, options, executor=Inline(), listener=display, should_stop=should_stop)
        states = results.summary()["status"].to_list()
    except IsolossError as error:
        message, states = str(error), []
    reads = SHIM.fault_reads()
    outcome = {"operations": SHIM.fault_counted(), "reads": reads, "message": message, "states": states}
    outcome |= {"began": display.began, "reasons": display.reasons}
    os.write(answer, json.dumps(outcome).encode())


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a trial and wait for its end, which may be a kill after so many seconds."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        try:
            trial(request, theirs)
        except BaseException:
            import traceback

            os.write(theirs, json.dumps({"traceback": traceback.format_exc()}).encode())
        os._exit(0)
    os.close(theirs)
    timer = None
    if request["kill_after"] is not None:
        timer = threading.Timer(request["kill_after"], lambda: os.kill(child, signal.SIGKILL))
        timer.start()
    answered = b""
    while part := os.read(ours, 65536):
        answered += part
    os.close(ours)
    _, status = os.waitpid(child, 0)
    if timer:
        timer.cancel()
        timer.join()
    return {"killed": os.WIFSIGNALED(status), **(json.loads(answered) if answered else {})}


def main() -> None:
    """Answer requests until there are no more."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
