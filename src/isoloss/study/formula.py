"""Formulas in settings, as '= n_embd / 32': arithmetic over numbers, other settings and what follows from them."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

from isoloss.errors import ConfigError, collect, raise_all
from isoloss.study import compute
from isoloss.study.config import SETTINGS, RunConfig, is_whole
from isoloss.study.parts import defaults_of
from isoloss.study.synonyms import did_you_mean

QUANTITIES: dict[str, Callable[[RunConfig], int]] = {
    each.__name__: each
    for each in (
        compute.params_non_embedding,
        compute.params_without_position,
        compute.params_total,
        compute.tokens_per_step,
        compute.train_tokens,
        compute.flops_per_token,
        compute.train_flops,
        compute.evaluations,
    )
}
"""What follows from settings, by the name it has in a formula and in summary.csv."""
NAMES = (
    *(name for name in SETTINGS if not isinstance(RunConfig.model_fields[name].default, str | bool)),
    "vocab_size",
)
"""Settings that are numbers, and the vocabulary's size; not the seed, which a cell has several of."""
ROUNDED = (
    "max_iters", "warmup_iters", "lr_decay_iters", "eval_interval", "eval_iters", "eval_train_tokens",
    "eval_val_tokens", "eval_stride",
)  # fmt: skip
"""Settings whose formula is rounded to the nearest whole number; other whole numbers have to come out whole."""
MAX_CHARACTERS = 300

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "sqrt": math.sqrt,
    "log": math.log,
    "log2": math.log2,
    "exp": math.exp,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "min": min,
    "max": max,
}


def is_formula(value: object) -> bool:
    """Whether a setting's value is a formula: a text that begins with '='."""
    return isinstance(value, str) and value.lstrip().startswith("=")


def check_formula(setting: str, text: str) -> None:
    """Raises ConfigError for what is no formula, or names what is unknown."""
    if setting not in NAMES:
        raise ConfigError(f"{setting}: {text!r} is a formula, and {setting} is no number", (setting,))
    _parsed(setting, text)


def with_formulas_computed(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a cell with each formula replaced by its number; what a cell leaves out has its default.

    Raises ConfigError with the setting whose formula is circular, divides by zero or gives no number that it can have.

    Example: `with_formulas_computed({"n_embd": 128, "n_head": "= n_embd / 32"})["n_head"]` is 4.
    """
    formulas = {name: cast(str, value) for name, value in cell.items() if name in NAMES and is_formula(value)}
    if not formulas:
        return dict(cell)
    settings, errors = _Settings(cell, formulas), list[ConfigError]()
    computed = {name: collect(errors, lambda name=name: settings.computed(name), 0) for name in formulas}
    raise_all(errors)
    return {**cell, **computed}


class _Settings:
    """A cell as the functions of `compute` read it: by attributes, each computed when it is asked for."""

    def __init__(self, cell: Mapping[str, Any], formulas: Mapping[str, str]) -> None:
        self._cell, self._formulas = cell, formulas
        self._asked: list[str] = []
        self._known: dict[str, int | float] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self._formulas:
            return self.computed(name)
        own = defaults_of(self._cell.get("optimizer"))
        return self._cell.get(name, own.get(name, RunConfig.model_fields[name].default))

    def computed(self, name: str) -> int | float:
        """The value of a setting that is a formula, computed once. Raises ConfigError where it has none."""
        if name in self._known:
            return self._known[name]
        if name in self._asked:
            circle = " needs ".join([*self._asked[self._asked.index(name) :], name])
            raise ConfigError(f"{name}: its formula is circular: {circle}", (name,))
        text = self._formulas[name]
        self._asked.append(name)
        try:
            self._known[name] = _as_setting(name, text, _value(_parsed(name, text).body, self._number))
            return self._known[name]
        except (ZeroDivisionError, OverflowError, ValueError, TypeError, RecursionError) as error:
            reason = "divides by zero" if isinstance(error, ZeroDivisionError) else f"has no value: {error}"
            raise ConfigError(f"{name}: the formula '{text}' {reason}", (name,)) from error
        finally:
            self._asked.pop()

    def _number(self, name: str) -> float:
        value = QUANTITIES[name](cast(RunConfig, self)) if name in QUANTITIES else getattr(self, name)
        if value is None:
            raise ValueError(f"{name} is not set")
        return float(value)


@cache
def _parsed(setting: str, text: str) -> ast.Expression:
    """The formula as a tree of what is allowed in one. Raises ConfigError."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{setting}: a formula of more than {MAX_CHARACTERS} characters", (setting,))
    try:
        tree = ast.parse(text.strip().removeprefix("=").strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ConfigError(f"{setting}: {text!r} is no formula; write one like '= n_embd / 32'", (setting,)) from error
    called = {node.func for node in ast.walk(tree.body) if isinstance(node, ast.Call)}
    for node in ast.walk(tree.body):
        _check_node(setting, node, called=node in called)
    return tree


def _check_node(setting: str, node: ast.AST, *, called: bool) -> None:
    match node:
        case ast.Name(id=name) if name not in (_FUNCTIONS if called else (*NAMES, *QUANTITIES)):
            hint = did_you_mean(name, _FUNCTIONS if called else [*NAMES, *QUANTITIES])
            raise ConfigError(f"{setting}: its formula names '{name}': {hint}", (setting,))
        case ast.Call(func=ast.Name(), keywords=[]):
            return
        case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(value, bool):
            return
        case ast.BinOp() | ast.UnaryOp() | ast.Name() | ast.operator() | ast.UAdd() | ast.USub() | ast.Load():
            return
        case _:
            allowed = f"numbers, settings, + - * / // % **, and {', '.join(_FUNCTIONS)}"
            raise ConfigError(f"{setting}: its formula holds what is not computed; allowed are {allowed}", (setting,))


def _value(node: ast.expr, number: Callable[[str], float]) -> float:
    match node:
        case ast.Constant(value=value):
            return float(cast(float, value))
        case ast.Name(id=name):
            return number(name)
        case ast.UnaryOp(op=op, operand=operand):
            return -_value(operand, number) if isinstance(op, ast.USub) else _value(operand, number)
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_value(left, number), _value(right, number))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return float(_FUNCTIONS[name](*(_value(argument, number) for argument in arguments)))
        case _:
            raise AssertionError(ast.dump(node))


def _as_setting(name: str, text: str, value: float) -> int | float:
    """The number as the setting has it. Raises ConfigError where it is none that the setting can have."""
    if not math.isfinite(value):
        raise ConfigError(f"{name}: the formula '{text}' is no finite number", (name,))
    if name in _FLOATS:
        return value
    whole = round(value)
    if name not in ROUNDED and abs(value - whole) > 1e-9 * max(abs(value), 1.0):
        instead = "choose other levels, or use round(), floor() or ceil()"
        raise ConfigError(f"{name}: the formula '{text}' gives {value:.6g}, no whole number; {instead}", (name,))
    return whole


_FLOATS = tuple(name for name in NAMES if name in SETTINGS and not is_whole(name))
