"""Parts of one's own: a norm, an MLP, positions or an optimizer from a Python file that the command line names.

Naming a file runs it, so study files name parts alone. Configurations call one by its name and its file's SHA-256, as
`L1Norm@0f3a5bc21d77`: what another source computes are other runs.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.abc import ExecutionLoader
from types import ModuleType
from typing import Any, cast

from isoloss.errors import ConfigError
from isoloss.files import sha256_bytes, user_path
from isoloss.study import parts
from isoloss.study.parts import Mlp, Norm, Optimizer, Part, Position

_NAME = re.compile(r"[A-Z][A-Za-z0-9_]*")
_MOMENT = re.compile(r"(?!(model|ema)$)[a-z][a-z0-9_]*")
"""Moments are prefixes of the names that tensors have in checkpoints, in which these two are taken."""


@dataclass(frozen=True)
class Plugin:
    """The part `name` of a module with this source, as it was read from `path`."""

    name: str
    path: str
    source: bytes

    @property
    def value(self) -> str:
        """What configurations call it."""
        return f"{self.name}@{sha256_bytes(self.source)[:12]}"


_GIVEN: dict[str, Plugin] = {}


def use_plugin(plugin: str | Plugin) -> str:
    """Let studies of this process use a part of one's own, given as 'FILE.py:NAME'; returns the value of its setting.

    Its file is run. It may hold several parts and import what is installed, but no file beside it, whose changes the
    digest would miss. Raises ConfigError.

    Example: `Study("norms", "tinyshakespeare", factors={"norm": ("layernorm", use_plugin("l1norm.py:L1Norm"))})`.
    """
    plugin = _read(plugin) if isinstance(plugin, str) else plugin
    if _GIVEN.get(plugin.name, plugin) != plugin:
        raise ConfigError(f"{plugin.path}: {plugin.name} is also one of {_GIVEN[plugin.name].path}; rename one")
    part = getattr(_module(plugin), plugin.name, None)
    _check(part, f"{plugin.path}: {plugin.name}")
    parts.know(plugin.value, cast("Part", part))
    _GIVEN[plugin.name] = plugin
    return plugin.value


def plugins_in_use() -> tuple[Plugin, ...]:
    """Those of this process, for others to use."""
    return tuple(_GIVEN.values())


def with_plugins(stated: Any) -> Any:
    """Plain values of a study in which the names of parts in use stand for what configurations call them."""
    if isinstance(stated, Mapping):
        entries = cast("Mapping[Any, Any]", stated).items()
        return {with_plugins(key): value if key == "says" else with_plugins(value) for key, value in entries}
    if isinstance(stated, list):
        return [with_plugins(item) for item in cast("list[Any]", stated)]
    return _GIVEN[stated].value if isinstance(stated, str) and stated in _GIVEN else stated


def _read(reference: str) -> Plugin:
    file, _, name = reference.rpartition(":")
    if not file or not _NAME.fullmatch(name):
        raise ConfigError(f"--plugin {reference}: expected FILE.py:NAME, of which the name begins with a capital")
    path = user_path(file)
    try:
        return Plugin(name, str(path), path.read_bytes())
    except OSError as error:
        raise ConfigError(f"--plugin {reference}: {path} cannot be read: {error.strerror or error}") from error


class _Loader(ExecutionLoader):
    """Makes a module of a source that was read already, so that its digest is that of what runs."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._plugin.source)

    def get_filename(self, fullname: str) -> str:
        return self._plugin.path


def _module(plugin: Plugin) -> ModuleType:
    name = f"isoloss_plugin_{sha256_bytes(plugin.source)[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, _Loader(plugin), origin=plugin.path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look theirs up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"{plugin.path} does not run: {type(error).__name__}: {error}") from error
    return module


def _check(part: object, what: str) -> None:
    """Raises ConfigError where something is no part that can be used."""
    match part:
        case Norm(normed=code) | Mlp(activated=code) | Optimizer(step=code) if callable(code):
            pass
        case Position(rows=rows, rotation=rotation, bias=bias) if any(map(callable, (rows, rotation, bias))):
            pass
        case Norm() | Mlp() | Position() | Optimizer():
            raise ConfigError(f"{what} has no function")
        case None:
            raise ConfigError(f"{what}: the file has nothing of this name")
        case _:
            raise ConfigError(f"{what} is no part: an isoloss.Norm, isoloss.Mlp, isoloss.Position or isoloss.Optimizer")
    for moment in part.moments if isinstance(part, Optimizer) else ():
        if not _MOMENT.fullmatch(moment):
            raise ConfigError(f"{what}: a moment can't be called {moment!r}; use small letters, as in exp_avg")
