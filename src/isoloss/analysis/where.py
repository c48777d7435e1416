"""Conditions on rows as they are typed: loss < 3 and (optimizer == 'adamw' or lr <= 1e-3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

from isoloss.analysis.columns import number_column
from isoloss.analysis.roles import check_columns
from isoloss.errors import ConfigError

_TOKEN = re.compile(
    r"\s*(?:(?P<bracket>[()])|(?P<op><=|>=|==|!=|<|>|=)|(?P<quoted>'[^']*'|\"[^\"]*\")|`(?P<ticked>[^`]+)`"
    r"|(?P<word>[^\s()<>=!'\"`]+))"
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SWAPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


def rows_where(table: pl.DataFrame, condition: str) -> pl.DataFrame:
    """The rows that meet a condition; where a value is missing they do not.

    A condition compares a column with a number or a quoted word (<, <=, >, >=, ==, !=); comparisons are joined by and,
    or and brackets, `and` first. A name with spaces stands in backticks. Raises ConfigError with what is wrong.
    """
    parser = _Parser(table, condition)
    kept = table.filter(parser.parsed())
    if kept.is_empty():
        raise ConfigError(f"--where {condition}: none of {len(table):,} rows meets it")
    return kept


class _Parser:
    """Reads a condition from left to right."""

    def __init__(self, table: pl.DataFrame, condition: str) -> None:
        self.table, self.condition, self.place = table, condition, 0
        self.tokens: list[_Token] = []
        at = 0
        while condition[at:].strip():
            found = _TOKEN.match(condition, at)
            if found is None:
                raise self.error(f"cannot read {condition[at:].strip()!r}")
            kind = str(found.lastgroup)
            self.tokens.append(_Token(kind, found.group(kind)))
            at = found.end()

    def error(self, text: str) -> ConfigError:
        return ConfigError(
            f"--where {self.condition}: {text}; write a condition like \"loss < 3 and metric == 'nats'\""
        )

    def parsed(self) -> pl.Expr:
        found = self.joined("or")
        if self.place < len(self.tokens):
            raise self.error(f"did not expect {self.tokens[self.place].text}")
        return found.fill_null(value=False)

    def joined(self, word: str) -> pl.Expr:
        part = (lambda: self.joined("and")) if word == "or" else self.comparison
        found = part()
        while self.place < len(self.tokens) and self.tokens[self.place] == _Token("word", word):
            self.place += 1
            found = found | part() if word == "or" else found & part()
        return found

    def next(self) -> _Token:
        if self.place == len(self.tokens):
            raise self.error("it ends too early")
        self.place += 1
        return self.tokens[self.place - 1]

    def comparison(self) -> pl.Expr:
        left = self.next()
        if left == _Token("bracket", "("):
            found = self.joined("or")
            if self.next() != _Token("bracket", ")"):
                raise self.error("a bracket is not closed")
            return found
        op, right = self.next(), self.next()
        if op.kind != "op" or {left.kind, right.kind} & {"op", "bracket"}:
            raise self.error(f"expected a comparison, not {left.text} {op.text} {right.text}")
        if _is_value(left) and not _is_value(right):
            left, op, right = right, _Token("op", _SWAPPED.get(op.text, op.text)), left
        if _is_value(left) or not _is_value(right):
            raise self.error(
                f"{left.text} {op.text} {right.text} does not compare a column with a number or quoted word"
            )
        return self.compared(left.text, op.text, right)

    def compared(self, name: str, op: str, value: _Token) -> pl.Expr:
        check_columns([name], self.table.columns)
        if value.kind == "quoted":
            column, right = pl.lit(self.table[name].cast(pl.String())), pl.lit(value.text[1:-1])
            if op not in ("=", "==", "!="):
                raise self.error("a word can be equal (==) or not (!=), no less or more")
        else:
            column, right = pl.lit(number_column(self.table[name]).fill_nan(None)), pl.lit(float(value.text))
        found = {"<": column < right, "<=": column <= right, ">": column > right, ">=": column >= right}
        return found.get(op, column != right if op == "!=" else column == right)


def _is_value(token: _Token) -> bool:
    return token.kind == "quoted" or (token.kind == "word" and _NUMBER.fullmatch(token.text) is not None)
