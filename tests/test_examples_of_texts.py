"""Every study of docs/texts.md is trained, on short texts in place of those that it names."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isoloss.data.known import CORPORA, KnownCorpus, Source
from isoloss.data.vocabularies import gpt2
from isoloss.errors import CorpusError
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.files import sha256_bytes
from isoloss.study.studyfile import parse_study
from tests.test_hub import Hub

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PAGE = (Path(__file__).parents[1] / "docs/texts.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(name: (\w+)\n.*?)```", PAGE, re.DOTALL)
TINY = {
    "n_layer": 1, "n_embd": 8, "n_head": 1, "block_size": 8, "batch_size": 2, "max_iters": 2, "warmup_iters": 1,
    "eval_interval": 2, "eval_train_tokens": 64, "eval_val_tokens": 64, "precision": "fp32",
}  # fmt: skip
EOT, MAGIC = 50256, 20240520


def words(seed: int, n_words: int = 600) -> str:
    """Some lines of words in which pairs of letters repeat."""
    drawn = np.random.default_rng(seed)
    spelled = ["".join(drawn.choice([*"aeiounrst"], size=size)) for size in drawn.integers(1, 8, size=n_words)]
    return " ".join(spelled).replace(" a", "\na") + "\n"


def rows(seed: int) -> str:
    return "".join(json.dumps({"text": line}) + "\n" for line in words(seed).splitlines())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the studies name; tiny Shakespeare and the Hub are stood in for, so that nothing is downloaded."""
    monkeypatch.chdir(tmp_path)
    files = ["hamlet.txt", "macbeth.txt", "more_plays/one.txt", "2022.txt", "2023.txt", "2024.txt", "essays/one.txt"]
    files += ["letters.txt", "mails/2024/one.txt", "newspaper.txt"]
    contents = {name: words(seed).encode() for seed, name in enumerate(files)}
    contents |= {"stories.jsonl": rows(90).encode(), "mails.jsonl": rows(91).encode()}
    contents |= {f"data/{seed}.jsonl.zst": zstd.compress(rows(seed).encode()) for seed in (92, 93)}
    for name, content in contents.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    play = words(94, 20_000).encode()
    monkeypatch.setitem(
        CORPORA, "tinyshakespeare", KnownCorpus(sha256_bytes(play), None, None, (Source("here", lambda: play),))
    )
    monkeypatch.setitem(sys.modules, "datasets", Hub([{"text": line} for line in words(95).splitlines()]))


def write_shards() -> None:
    """As llm.c writes them. Skips the test where GPT-2's merges cannot be had."""
    try:
        vocabulary = gpt2()
    except CorpusError as error:
        pytest.skip(str(error))
    for seed, split in enumerate(("train", "val")):
        tokens = [EOT, *vocabulary.encode(words(seed, 300)).tolist()]
        header = np.zeros(256, dtype="<i4")
        header[:3] = MAGIC, 1, len(tokens)
        path = Path(f"fineweb10B/fineweb_{split}_000001.bin")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(header.tobytes() + np.array(tokens, dtype="<u2").tobytes())


def test_the_studies_are_those_of_the_page() -> None:
    assert len(EXAMPLES) == PAGE.count("```yaml") == len({name for _, name in EXAMPLES}) > 12


@pytest.mark.parametrize(("stated", "name"), EXAMPLES, ids=[name for _, name in EXAMPLES])
def test_a_study_of_the_documentation_trains(stated: str, name: str) -> None:
    if name == "shards":
        write_shards()
    stated = re.sub(r"tokens: \d+e\d", "tokens: 20000", stated)
    study = parse_study(stated, "texts.md")
    found = run_study(
        replace(study, base=TINY | {**study.base}), "out", RunOptions("cpu", compile="off"), executor=Inline()
    )
    summary = found.summary()
    assert {*summary["status"]} == {"done"} and summary["best_val_bpb"].is_finite().all()
    assert len(summary) == len({*summary["run_id"]}) > 0
