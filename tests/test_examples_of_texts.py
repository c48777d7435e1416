"""Every study of docs/texts.md is trained, on short texts in place of those that it names."""

from __future__ import annotations

import gzip
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from isoloss.data import corpus, tokenizing
from isoloss.data.byte_level import byte_letters, defined
from isoloss.data.known import CORPORA, KnownCorpus, Source
from isoloss.data.vocabularies import train_bpe
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.files import sha256_bytes
from isoloss.study.studyfile import parse_study
from isoloss.study.synthetic import is_synthetic
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
    """What the studies name. Tiny Shakespeare, GPT-2's merges and the Hub are stood in for: nothing is downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    files = ["hamlet.txt", "macbeth.txt", "more_plays/one.txt", "2022.txt", "2023.txt", "2024.txt", "essays/one.txt"]
    files += ["letters.txt", "mails/2024/one.txt", "newspaper.txt"]
    contents = {name: words(seed).encode() for seed, name in enumerate(files)}
    contents |= {"stories.jsonl": rows(90).encode(), "mails.jsonl": rows(91).encode()}
    contents |= {f"data/{seed}.jsonl.zst": zstd.compress(rows(seed).encode()) for seed in (92, 93)}
    contents |= {"notes.txt.gz": gzip.compress(words(94).encode())}
    contents |= {"letters.txt.zst": zstd.compress(words(95).encode())}
    contents |= {"tokenizer.json": train_bpe([words(96)], 280).definition.encode()}
    pairs = [(one, other) for one in byte_letters() for other in byte_letters()]
    vocabulary = defined(byte_letters(), pairs[: EOT - 256], ["<|endoftext|>"])
    for seed, split in enumerate(("train", "val")):
        tokens = [EOT, *vocabulary.encode(words(seed, 300)).tolist()]
        header = np.zeros(256, dtype="<i4")
        header[:3] = MAGIC, 1, len(tokens)
        shard = np.array(tokens, dtype="<u2").tobytes()
        contents |= {f"fineweb10B/fineweb_{split}_000001.bin": header.tobytes() + shard}
        contents |= {f"openwebtext/{split}.bin": shard}
    for name, content in contents.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    for seed, name in enumerate(("rows.parquet", "more_rows.parquet")):
        pl.DataFrame({"text": words(seed).splitlines()}).write_parquet(name)
    play = words(97, 20_000).encode()
    monkeypatch.setitem(
        CORPORA, "tinyshakespeare", KnownCorpus(sha256_bytes(play), None, None, (Source("here", lambda: play),))
    )
    monkeypatch.setitem(sys.modules, "datasets", Hub([{"text": line} for line in words(98).splitlines()]))
    for module in (corpus, tokenizing):
        monkeypatch.setattr(module, "gpt2", lambda **_: vocabulary)


def test_the_studies_are_those_of_the_page() -> None:
    assert len(EXAMPLES) == PAGE.count("```yaml") == len({name for _, name in EXAMPLES}) > 18


@pytest.mark.parametrize("stated", [text for text, _ in EXAMPLES], ids=[name for _, name in EXAMPLES])
def test_a_study_of_the_documentation_trains(stated: str) -> None:
    stated = re.sub(r"tokens: \d+e\d", "tokens: 20000", stated)
    study = parse_study(stated, "texts.md")
    options = RunOptions("cpu", compile="off")
    found = run_study(replace(study, base=TINY | {**study.base}), "out", options, executor=Inline())
    summary = found.summary()
    assert {*summary["status"]} == {"done"} and len(summary) == len({*summary["run_id"]}) > 0
    assert summary["best_val_bpb"].null_count() == 0 and summary["best_val_bpb"].is_finite().all()
    facts = [found.facts.of(dataset) for dataset in study.datasets]
    assert all((each.documents is not None) == (study.document_separator is not None) for each in facts)
    assert [bool(each.train_parts) for each in facts] == [bool(text.shares) for text in study.datasets.values()]
    assert ("true_val_loss" in summary.columns) == any(
        is_synthetic(text.stated[-1]) for text in study.datasets.values()
    )
    if study.val_share is not None:
        [only] = facts
        whole = (only.train_tokens or 0) + (only.val_tokens or 0)
        assert only.val_tokens == pytest.approx(study.val_share * whole, abs=1)
