"""Documents that are kept apart: no block crosses an end, and every place within one can be drawn."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoloss.cli import run_command_line, train
from isoloss.data import corpus
from isoloss.data.batches import exact_eval_starts, possible_starts, sampled_eval_starts, train_batch, windows
from isoloss.data.corpus import Piece
from isoloss.data.survey import TextReader
from isoloss.data.token_files import Tokens, open_tokens
from isoloss.data.tokens import check_length, corpus_facts, prepare
from isoloss.design.audit_settings import evaluated_blocks, settings_findings
from isoloss.errors import ConfigError, CorpusError, StoreError
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.files import read_record, sha256_bytes, write_record
from isoloss.model import gpt
from isoloss.report.chapters.method import method_chapter
from isoloss.report.snapshot import take_snapshot
from isoloss.store.tables import load_study
from isoloss.store.text_records import lengths_as_words, lengths_from
from isoloss.study.compute import train_tokens
from isoloss.study.identity import run_id
from isoloss.study.repeats import epochs, unique_tokens
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study, parse_study
from isoloss.study.texts import Text
from isoloss.training import loop
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens, evaluate
from isoloss.training.state import initial_state, stack
from isoloss.training.step import Stepper
from isoloss.wording import percent
from tests.texts import load_corpus

END = "<end>\n"
RNG = np.random.default_rng(0)
DOCUMENTS = ["".join(RNG.choice([*"abcé \n<"], size=n)) for n in RNG.integers(1, 90, size=60)]
WHOLE = "".join(document + END for document in DOCUMENTS)
STUDY = """name: s
corpus: a.txt
document_separator: "<end>\\n"
base: {n_layer: 1, n_head: 1, n_embd: 8, block_size: 8, batch_size: 4, max_iters: 4, eval_interval: 2}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(WHOLE)
    return tmp_path


def divided(corpus: Any = "a.txt", **more: Any) -> Text:
    return Text(corpus, document_separator=END, **more)


def documents(tokens: Tokens) -> list[str]:
    """The documents of both splits, as their tokens and ends have them."""
    splits = zip((tokens.train_N, tokens.val_N), tokens.layouts, strict=True)
    return [tokens.tokenizer.decode(part) for split_N, of in splits for part in np.split(split_N, of.ends_D[:-1])]


@pytest.mark.parametrize("size", [1, 7, 1 << 22])
@pytest.mark.parametrize("name", ["char", "byte", "bpe:300"])
def test_documents_are_those_of_the_text_for_every_tokenizer(
    monkeypatch: pytest.MonkeyPatch, name: str, size: int
) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", size)
    tokens = prepare(divided(), name)
    found, whole = documents(tokens), [document + END for document in DOCUMENTS]
    cut = len(tokens.layouts[0].ends_D)  # the document that the split cuts is two
    assert found[: cut - 1] == whole[: cut - 1] and found[cut + 1 :] == whole[cut:]
    assert found[cut - 1] + found[cut] == whole[cut - 1]
    assert open_tokens(tokens.folder).layouts[0].ends_D.tolist() == tokens.layouts[0].ends_D.tolist()
    if name != "bpe:300":
        assert corpus_facts(divided(), name) == tokens.facts or name == "char"
        assert corpus_facts(divided(), name).documents == tokens.facts.documents


def test_ends_that_are_altered_are_found() -> None:
    tokens = prepare(divided())
    (tokens.folder / "val_ends.bin").write_bytes(b"\0" * 8)
    with pytest.raises(StoreError, match="the ends of its documents"):
        open_tokens(tokens.folder)


@pytest.mark.parametrize("block", [1, 8, 40])
def test_no_window_crosses_an_end_and_every_place_within_is_drawn(block: int) -> None:
    tokens = prepare(divided())
    for data_N, layout in zip((tokens.train_N, tokens.val_N), tokens.layouts, strict=True):
        ends_D = layout.ends_D
        bounds = [*zip([0, *ends_D[:-1].tolist()], ends_D.tolist(), strict=True)]
        possible = {start for begin, end in bounds for start in range(begin, end - block)}
        starts = possible_starts(layout, block)
        numbers = np.arange(starts.until_D[-1])
        assert {*starts.places(numbers).tolist()} == possible
        assert len(numbers) == len(possible)  # each as often as any other
        assert {*sampled_eval_starts(1, 2, 0, 500, layout, block).tolist()} <= possible
        exact = [start for begin, end in bounds for start in range(begin, end - block, block)]
        assert exact_eval_starts(layout, block).tolist() == exact
        some = exact_eval_starts(layout, block, 5 * block)
        assert len(some) == min(5, len(exact)) and {*some.tolist()} <= {*exact} and (np.diff(some) > 0).all()
        batch = train_batch(data_N, 1, 2, 0, 1, 50, block, layout)
        inside = {tuple(data_N[start : start + block + 1].tolist()) for start in possible}
        assert {*map(tuple, batch.tolist())} <= inside


def test_a_step_draws_the_same_blocks_on_its_device(make: Any) -> None:
    tokens = prepare(divided())
    config = make(block_size=8, batch_size=4, vocab_size=tokens.tokenizer.vocab_size)
    stepper = Stepper(
        stack([initial_state(config)], torch.device("cpu")),
        torch.from_numpy(tokens.train_N),
        Ranks(),
        tokens.layouts[0],
    )
    stepper.fill_tables()
    starts_RxB = stepper._starts_RKxExB[:, 0].numpy()  # pyright: ignore[reportPrivateUsage]
    for step in range(len(starts_RxB)):
        drawn = train_batch(tokens.train_N, config.seed, step, 0, 1, 4, 8, tokens.layouts[0])
        assert (windows(tokens.train_N, starts_RxB[step], 8) == drawn).all()


@pytest.mark.parametrize("name", ["char", "bpe:300"])
def test_bits_per_byte_are_those_of_the_targets_within_documents(make: Any, name: str) -> None:
    tokens = prepare(divided(), name)
    config = make(block_size=8, tokenizer=name, vocab_size=tokens.tokenizer.vocab_size, eval_val_tokens=0)
    stacked = stack([initial_state(config)], torch.device("cpu"))
    [found] = evaluate(stacked, DeviceTokens(tokens, torch.device("cpu")), Ranks()) or []
    blocks, ends_D = [], tokens.layouts[1].ends_D
    for begin, end in zip([0, *ends_D[:-1]], ends_D, strict=True):
        blocks += [tokens.val_N[start : start + 9].astype(np.int64) for start in range(begin, end - 8, 8)]
    losses = gpt.loss(stacked.parameters, stacked.members, torch.from_numpy(np.stack(blocks))[None])
    n_bytes = sum(len(tokens.tokenizer.to_bytes(block[1:])) for block in blocks)
    assert found.val_loss == pytest.approx(losses.item(), rel=1e-5)
    assert found.val_bpb == pytest.approx(losses.item() * 8 * len(blocks) / log(2) / n_bytes, rel=1e-5)


def test_rows_and_files_end_in_the_separator() -> None:
    Path("a.jsonl").write_text("".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS))
    assert prepare(divided("files:a.jsonl,field=text")).sha256 == prepare(divided()).sha256
    for number, text in enumerate(("to be" + END, "or not")):
        Path(f"{number}.txt").write_text(text)
    assert load_corpus(("0.txt", "1.txt"), end=END).decode() == f"to be{END}or not{END}"


def test_only_a_separator_that_is_stated_names_runs_otherwise() -> None:
    def ids(separator: str | None) -> list[str]:
        study = Study("s", "a.txt", base={"block_size": 8}, document_separator=separator)
        return [run_id(config) for config in study.expand(corpus_facts(study.text, "char"))]

    assert prepare("a.txt").sha256 == sha256_bytes(WHOLE.encode())
    assert len({*ids(None), *ids(END), *ids("\n")}) == 3


def test_a_study_keeps_its_documents_apart_from_end_to_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steppers = list[Any]()
    monkeypatch.setattr(loop, "Stepper", lambda *given: steppers.append(given) or Stepper(*given))
    study = parse_study(STUDY, "s.yaml")
    assert parse_study(dump_study(study), "s.yaml") == study and study.text == divided()
    results = run_study(study, folder / "out", RunOptions("cpu", compile="off"), executor=Inline())
    assert steppers[0][3].ends_D.tolist() == prepare(divided()).layouts[0].ends_D.tolist()
    assert results.summary()["best_val_bpb"].null_count() == 0
    again = load_study(folder / "out")
    record = read_record(folder / "out/tokenizer.json")
    assert lengths_from(record["documents"][0][0]) == again.facts.documents_of(0)[0]
    assert lengths_from([(7, 2), (9, 1)]) == lengths_from(lengths_as_words({9: 1, 7: 2})) == {7: 2, 9: 1}  # older ones
    assert again.study.document_separator == END and again.facts.documents == prepare(divided()).facts.documents
    assert any(f"Each document ends in {END!r}" in said for said in method_chapter(take_snapshot(again)).details)
    assert results.facts.sha256 == prepare(divided()).sha256
    for wrong in ("0x3", "1x", "1" * 5000 + "x1", "1x1  2x2", "x"):
        (folder / "out/tokenizer.json").unlink()
        write_record(folder / "out/tokenizer.json", record | {"documents": [[wrong], [wrong]]})
        with pytest.raises(StoreError, match=r"tokenizer\.json"):
            load_study(folder / "out")


def test_documents_that_no_block_fits_into_are_left_out_and_said(make: Any) -> None:
    facts = corpus_facts(divided(), "char")
    config = make(block_size=64, vocab_size=facts.vocab_size, corpus_sha256=facts.sha256)
    lengths = prepare(divided()).layouts[0].lengths_D
    share = lengths[lengths <= 64].sum() / lengths.sum()
    [found] = [each for each in settings_findings([config], facts, None) if each.code == "short_documents"]
    assert f"With block_size 64, {percent(share)} of the training tokens" in found.text
    longer = config.model_copy(update={"block_size": 32})
    for settings, told in (({}, True), ({"eval": "sliding", "eval_stride": 8}, False)):
        both = [each.model_copy(update=settings) for each in (config, longer)]
        codes = {each.code for each in settings_findings(both, facts, None)}
        assert ("block_sizes_on_other_text" in codes) == told
    assert unique_tokens(config, facts) == lengths[lengths > 64].sum()
    assert epochs(config, facts) == pytest.approx(train_tokens(config) / lengths[lengths > 64].sum())
    assert unique_tokens(config, replace(facts, documents=None)) == lengths.sum()
    assert evaluated_blocks(config.model_copy(update={"eval_val_tokens": 0}), facts) == len(
        exact_eval_starts(prepare(divided()).layouts[1], 64)
    )
    with pytest.raises(
        CorpusError, match=r"the longest document of the train split of .* has 9\d tokens, block_size=128"
    ):
        check_length(make(block_size=128), facts)
    longest = max(prepare(divided()).layouts[1].lengths_D)
    short = replace(facts, documents=(facts.documents_of(0)[0:1], ({int(longest): 1},)))
    check_length(make(block_size=64, eval="sliding", eval_stride=8), short)
    with pytest.raises(CorpusError, match=r"of the val split .* has 8 tokens, eval_stride=8 needs at least 9"):
        check_length(
            make(block_size=64, eval="sliding", eval_stride=8),
            replace(short, documents=(short.documents_of(0), ({8: 3},))),
        )


@pytest.mark.parametrize("name", ["char", "byte", "bpe:300"])
def test_a_text_that_grows_between_two_readings_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def growing(reader: TextReader) -> Iterator[tuple[int, Piece]]:
        yield from original(reader)
        with Path("a.txt").open("a") as stream:
            stream.write("cab" + END)

    original = TextReader.__iter__
    monkeypatch.setattr(TextReader, "__iter__", growing)
    with pytest.raises(CorpusError, match=r"'a\.txt' changed while it was read"):
        prepare(divided(), name)


@pytest.mark.parametrize("stated", ["''", "3", "[a]", "x" * 101])
def test_a_separator_that_is_none_is_refused(stated: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("s.yaml:2: document_separator")):
        parse_study(f"name: s\ndocument_separator: {stated}\n", "s.yaml")


def test_train_takes_a_separator(monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[Study]()
    monkeypatch.setattr(train, "start", lambda study, *_, **__: started.append(study))
    run_command_line(["train", "--corpus", "a.txt", "--document_separator", END])
    assert started[0].text == divided()
