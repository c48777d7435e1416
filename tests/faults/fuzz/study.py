"""Study files as text."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import isoloss.study.study
from isoloss.errors import IsolossError
from isoloss.study.config import SETTINGS
from isoloss.study.studyfile import KEYS, dump_study, parse_study
from isoloss.study.texts import DataFacts

WORDS = [
    *(f"{key}:".encode() for key in (*KEYS, *SETTINGS, "says", "kind", "factor", "direction", "levels", "response")),
    *b"effect ratio plateau range spikes exponent up down alpha beta LND best_val_loss mfu low high by_step".split(),
    *b"true null ~ .nan .inf -.inf 1e999 0x7f 0o17 1_000 -0 !!int !!binary !x & * << % --- ... | > ?".split(),
    *(
        b"- ",
        b": ",
        b"\n  ",
        b" # ",
        b'"\\ud800"',
        b"*a",
        b"&a ",
        b"<<: *a",
        b"[",
        b"]",
        b"{",
        b"}",
        b"%YAML 1.1\n---\n",
    ),
]
SMALL = [
    b"name: s\nbase: {n_layer: 1, dropout: 0.1}\nfactors:\n  n_embd: [8, 16]\nseeds: [1, 2]\n",
    b"name: s\nhypotheses:\n  - {says: it falls, kind: effect, factor: n_head, levels: [1, 2], direction: up}\n",
    b"name: s\nhypotheses:\n- says: |\n    of\n    two\n  kind: range\n  response: mfu\n  low: 0\n  high: 1\n",
    b"%YAML 1.2\n---\nname: s\nseeds: [0x1, 0o7]\n...\n",
    b'name: "s"\ndescription: "\\u00e9\\n\\x07"\ntokenizer: byte\nseeds: 3\nbase:\n  ? lr_decay_iters\n  : null\n',
]


def seeds() -> list[bytes]:
    folder = resources.files("isoloss.study") / "studies"
    return [*SMALL, *((folder / f"{name}.yaml").read_bytes() for name in ("quickstart", "ladder"))]


def reader(_folder: Path) -> Callable[[bytes], None]:
    """Reads a study; one that is read must expand, and survive its own file."""
    isoloss.study.study.MAX_RUNS = 64  # a study at the limit takes seconds, as test_hostile.py measures
    data = DataFacts("ab", 3)

    def read(content: bytes) -> None:
        text = content.decode(errors="replace")
        try:
            study = parse_study(text, "s.yaml")
        except IsolossError as error:
            assert str(error).startswith("s.yaml") and all(map(str.isprintable, str(error).split("\n"))), repr(error)
            return
        assert study.expand(data)
        assert parse_study(dump_study(study), "dumped") == study

    return read
