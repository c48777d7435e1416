"""Plain YAML 1.2, read from a stranger's text: scalars, lists and mappings, and the line each stands on.

The text is read as the parser's events. Nothing is made of tags and there are no aliases, so that what is read is
never larger or deeper than what was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode

from isoloss.errors import ConfigError

Place = tuple[str | int, ...]
"""Where a value stands: the keys, and indices from 0, that lead to it."""

Plain = str | int | float | bool | None

MAX_BYTES = 1_000_000
MAX_DEPTH = 8
"""Lists and mappings within one another; a study needs three."""
INTEGERS = range(-(2**63), 2**63)
_TAGS = "tag:yaml.org,2002:"
_TYPES = cast("Any", YAML(typ="safe", pure=True))
"""Tells types by YAML 1.2 and parses nothing itself: a %YAML line changes what its own parser takes values for."""
_MADE: dict[str, Callable[[Any], int | float | bool | None]] = {
    "null": lambda node: None,
    "bool": _TYPES.constructor.construct_yaml_bool,
    "int": _TYPES.constructor.construct_yaml_int,
    "float": _TYPES.constructor.construct_yaml_float,
}
_LEADING_ZERO = re.compile("0[0-9]+")
"""YAML reads a list [0,003] as the two numbers 0 and 3."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_yaml(text: str, source: str) -> tuple[Any, dict[Place, int]]:
    """The value a text states, None for an empty one, and the line of every key and list item.

    Raises ConfigError with source:line for anything that is not plain YAML of at most MAX_BYTES.
    """
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise ConfigError(f"{source}: larger than {MAX_BYTES:,} bytes; this is no study file")
    reader = _Reader(text)
    try:
        return reader.document(), reader.lines
    except _NotPlainError as error:
        raise ConfigError(f"{source}:{error.line}: {error}") from error
    except MarkedYAMLError as error:
        marked = cast("Any", error)
        line = f":{marked.problem_mark.line + 1}" if marked.problem_mark else ""
        raise ConfigError(f"{source}{line}: not valid YAML: {marked.problem or marked.context}") from error
    except YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error


def _events(text: str) -> Iterator[Any]:
    """The parser's events. Raises YAMLError: what the library stumbles over is no YAML that anyone meant to write.

    It asserts, indexes and overflows where an escape or a %YAML line is odd, so that its own errors are not all.
    """
    try:
        yield from cast("Any", YAML(typ="safe", pure=True)).parse(text)
    except YAMLError:
        raise
    except Exception as error:
        raise YAMLError(f"{type(error).__name__}: {error}") from error


class _NotPlainError(Exception):
    """What is not read, and its line."""

    def __init__(self, event: Any, message: str) -> None:
        super().__init__(message)
        self.line = _line(event)


class _Reader:
    """Reads one text, and keeps the lines it comes by."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Place, int] = {}
        self._events = _events(text)

    def document(self) -> Any:
        """The first document's value; there must be no second."""
        found: Any = None
        for number, start in enumerate(self._starts()):
            if number > 0:
                raise _NotPlainError(start, "a second document begins here; a file states one study")
            if start.version not in (None, (1, 2)):
                raise _NotPlainError(start, "this is read as YAML 1.2; take the %YAML line out")
            found = self._value(next(self._events), ())
        return found

    def _starts(self) -> Iterator[Any]:
        return (event for event in self._events if isinstance(event, DocumentStartEvent))

    def _value(self, event: Any, place: Place) -> Any:
        if isinstance(event, AliasEvent):
            raise _NotPlainError(event, f"the alias *{cast('Any', event).anchor} is not read; write its value out")
        if isinstance(event, ScalarEvent):
            return self._scalar(event)
        if event.tag is not None:
            raise _NotPlainError(event, f"the tag {event.tag} is not read; write a plain list or mapping")
        if len(place) == MAX_DEPTH:
            raise _NotPlainError(event, f"nested deeper than {MAX_DEPTH} levels; no study is")
        return self._list(place) if isinstance(event, SequenceStartEvent) else self._mapping(place)

    def _list(self, place: Place) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            inner = (*place, len(items))
            self.lines[inner] = _line(event)
            items.append(self._value(event, inner))
        return items

    def _mapping(self, place: Place) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            if isinstance(event, MappingStartEvent | SequenceStartEvent):
                raise _NotPlainError(event, "a list or mapping stands where a key is expected")
            key = str(self._value(event, place))
            if key in entries:
                raise _NotPlainError(event, f"not valid YAML: the key '{key}' is here a second time")
            self.lines[*place, key] = _line(event)
            entries[key] = self._value(next(self._events), (*place, key))
        return entries

    def _scalar(self, event: Any) -> Plain:
        text: str = event.value
        if _SURROGATE.search(text):
            raise _NotPlainError(event, "half of a surrogate pair is no character")
        tag = str(event.tag or _TYPES.resolver.resolve(ScalarNode, text, event.implicit))
        kind = tag.removeprefix(_TAGS)
        if event.tag and kind not in (*_MADE, "str"):
            raise _NotPlainError(event, f"the tag {tag} is not read; write a plain value")
        if kind == "int" and _LEADING_ZERO.fullmatch(text):
            raise _NotPlainError(event, f"{text!r} begins with a zero: write {int(text)}, or 0.{text} for 0,{text}")
        if kind not in _MADE:
            return text  # text, or what YAML 1.1 took for more than that: a date, =, <<
        try:
            value = _MADE[kind](ScalarNode(tag, text))
        except (ValueError, LookupError) as error:
            raise _NotPlainError(event, f"{text!r} is no value of type {kind}") from error
        if isinstance(value, int) and value not in INTEGERS:
            raise _NotPlainError(event, f"{text!r} needs more than 64 bits")
        return value


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
