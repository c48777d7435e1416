"""What GPUs offer, asked in another process by one that does not train on them itself.

A process that has used CUDA holds some hundred megabytes of a GPU, and a GPU in exclusive mode takes no second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from isoloss.errors import ConfigError
from isoloss.spawning import in_another_process
from isoloss.wording import listed


@dataclass(frozen=True)
class Gpu:
    """A GPU as a process that used it found it; `problem` says why it could not."""

    name: str
    multiplies_bf16: bool = False
    free_bytes: int = 0
    problem: str = ""


_asked: dict[torch.device, Gpu] = {}
"""What another process found, by the device."""


def gpu(device: torch.device) -> Gpu:
    """What is known of a GPU."""
    return gpus([device])[0]


def gpus(devices: Sequence[torch.device]) -> list[Gpu]:
    """The same for several, all asked at once."""
    if torch.cuda.is_initialized():
        return examine(devices)
    if unknown := [device for device in devices if device not in _asked]:
        _asked.update(zip(unknown, in_another_process(examine, unknown), strict=True))
    return [_asked[device] for device in devices]


def examine(devices: Sequence[torch.device]) -> list[Gpu]:
    """Use each GPU in this process."""
    return [_examine(device) for device in devices]


def _examine(device: torch.device) -> Gpu:
    name = str(device)
    try:
        name = torch.cuda.get_device_name(device)
        with torch.cuda.device(device):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Gpu(name, bf16, torch.cuda.mem_get_info(device)[0])
    except RuntimeError as error:
        return Gpu(name, problem=_in_words(str(error)))


def _in_words(error: str) -> str:
    if "busy or unavailable" in error:
        return "is in exclusive mode and another process uses it"
    if "out of memory" in error:
        return "has no memory left for another process"
    return f"does not work: {error.partition(chr(10))[0]}"


def check_usable(devices: Sequence[torch.device]) -> None:
    """Raises ConfigError where GPUs cannot be used, or are not of one kind, with those that can be."""
    found = dict(zip(devices, gpus(devices), strict=True))
    usable = [str(device) for device, each in found.items() if not each.problem]
    others = f"train on others: --device {' or '.join(usable)}" if usable else "free it, or train with --device cpu"
    for device, each in found.items():
        if each.problem:
            raise ConfigError(f"--device {device} ({each.name}) {each.problem}; {others}", ("device",))
    if len({each.name for each in found.values()}) > 1:
        names = listed(f"{device} ({each.name})" for device, each in found.items())
        raise ConfigError(
            f"--device cuda: {names} are not of one kind, and a run may go on with another; choose by "
            "CUDA_VISIBLE_DEVICES which to train on",
            ("device",),
        )
