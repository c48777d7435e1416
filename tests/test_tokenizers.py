"""Byte-level BPE: trained here, of a file, as a factor of a study; and losses that compare between tokenizers."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Theirs

from isoloss.analysis.effects import Effects
from isoloss.analysis.laws import summary_columns
from isoloss.cli.status import status_as_text
from isoloss.cli.tables import roles
from isoloss.data import byte_level
from isoloss.data.byte_level import ByteLevel
from isoloss.data.token_files import open_tokens
from isoloss.data.tokenizer import Tokenizer, token_dtype, train_tokenizer
from isoloss.data.tokens import check_length, corpus_facts, prepare, prepare_each
from isoloss.data.vocabularies import train_bpe
from isoloss.design.audit import audit
from isoloss.errors import ConfigError, CorpusError, StoreError
from isoloss.execution.executor import Inline
from isoloss.execution.export import export_run
from isoloss.execution.foreign_tokenizers import transformers_tokenizer
from isoloss.execution.growing import recorded_study
from isoloss.execution.options import RunOptions
from isoloss.execution.samples import tokenizer_of
from isoloss.execution.study import run_study
from isoloss.files import sha256_bytes, write_record
from isoloss.report.chapters.answer import answer_chapter
from isoloss.report.chapters.method import method_chapter
from isoloss.report.chapters.runs import configurations_table, runs_chapter
from isoloss.report.findings import find
from isoloss.report.payload import payload
from isoloss.report.snapshot import take_snapshot
from isoloss.store.merging import check_same_text, joined, merge_studies
from isoloss.store.opening import open_study, recorded_tokenizers
from isoloss.store.outcome import measure
from isoloss.store.owner import owned, study_paths
from isoloss.store.progress import Best, RunProgress, StudyProgress, study_progress
from isoloss.store.tables import StudyResults, load_study, ranked_runs
from isoloss.study.datasets import PER_BYTE
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study, find_study, parse_study
from isoloss.study.texts import ANY_DATA, DataFacts, Text, joined_facts
from isoloss.training import evaluate
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens
from isoloss.training.state import initial_state, stack
from isoloss.training.step import gather_windows, on_device
from tests.test_explore import unpacked

VERSE = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n\n  "
MIXED = "naïve café, 漢字 and 🎉 in 1234 words;\n\tthe question's end  \n"
LONGER = "".join(f"{VERSE}{number % 17} " for number in range(120))
TINY = {
    "n_layer": 1, "n_embd": 8, "n_head": 1, "block_size": 8, "batch_size": 2, "max_iters": 4, "warmup_iters": 1,
    "eval_interval": 2, "eval_train_tokens": 64, "eval_val_tokens": 64, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def bpe() -> ByteLevel:
    return train_bpe([VERSE * 20, MIXED * 20], 300)


@pytest.fixture
def verse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text with words to merge, and an empty cache."""
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "verse.txt"
    path.write_text(LONGER)
    return path


@given(st.text())
def test_every_tokenizer_gives_every_text_back(bpe: ByteLevel, text: str) -> None:
    text = text.encode(errors="ignore").decode()
    for tokenizer in (train_tokenizer("char", text), Tokenizer("byte"), Tokenizer("bpe:300", byte_level=bpe)):
        tokens_N = tokenizer.encode(text)
        assert tokenizer.decode(tokens_N) == text and tokenizer.spells(text)
        assert tokenizer.bytes_of_tokens()[tokens_N].sum() == len(text.encode())


@given(
    st.lists(st.sampled_from([" ", "\n", "  ", "\t", "to", "be", "'s", "!", "42", "é", "🎉", "\u2003"]), max_size=60),
    st.data(),
)
def test_tokens_of_pieces_are_those_of_the_whole(bpe: ByteLevel, words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[at:to] for at, to in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = bpe._library.encode(text).ids  # type: ignore[reportPrivateUsage]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_level, "PART_CHARACTERS", 3)
        patch.setattr(byte_level, "CONTEXT_CHARACTERS", 2)
        assert [token for tokens_N in bpe.encode_pieces(pieces) for token in tokens_N.tolist()] == whole
        if " to be" * 3 in text:
            assert len([*bpe.parts(pieces)]) > 1


def test_a_long_text_is_cut_into_many_parts_and_one_without_words_refused(
    bpe: ByteLevel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_level, "PART_CHARACTERS", 100)
    parts = [*bpe.parts([VERSE * 50])]
    assert len(parts) > 20 and "".join(parts) == VERSE * 50 and max(map(len, parts)) < 200
    monkeypatch.setattr(byte_level, "MAX_PART_CHARACTERS", 1000)
    with pytest.raises(ConfigError, match="without an end of a word; use tokenizer char or byte"):
        _ = [*bpe.parts(["x" * 2000])]


def test_a_text_is_cut_only_where_its_own_pre_tokenizer_cuts(bpe: ByteLevel, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {"type": "Split", "pattern": {"String": "\n"}, "behavior": "MergedWithNext", "invert": False}
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    by_line = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [lines, letters]}}
    known = ByteLevel(json.dumps(json.loads(bpe.definition) | by_line))
    monkeypatch.setattr(byte_level, "PART_CHARACTERS", 20)
    parts = [*known.parts([VERSE * 20])]
    assert len(parts) > 20 and all(part.startswith("\n") for part in parts[1:])
    assert any(part.startswith(" ") for part in bpe.parts([VERSE * 20]))


def test_merges_are_those_of_the_training_split_however_it_is_read(verse: Path) -> None:
    tokens, text = prepare(str(verse), "bpe:280"), verse.read_text()
    training, validation = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
    assert tokens.tokenizer.byte_level == train_bpe([training], 280) == train_bpe([*training], 280)
    assert tokens.tokenizer.decode(tokens.train_N) == training and tokens.tokenizer.decode(tokens.val_N) == validation
    assert tokens.tokenizer.vocab_size == 280 and len(tokens.train_N) < len(training)
    assert corpus_facts(Text(str(verse)), "bpe:280") == tokens.facts
    opened = open_tokens(tokens.folder)
    assert opened.tokenizer == tokens.tokenizer and (opened.val_N == tokens.val_N).all()
    verse.write_text(training + "zyzzyva " * 40 + validation[320:])
    assert prepare(str(verse), "bpe:280").tokenizer == tokens.tokenizer


def test_bytes_come_first_and_256_tokens_are_the_bytes() -> None:
    plain, merged = train_bpe([MIXED], 256), train_bpe([MIXED * 3], 260)
    assert plain.encode(MIXED).tolist() == [*MIXED.encode()]
    assert merged.token_bytes[:256] == plain.token_bytes and all(len(token) > 1 for token in merged.token_bytes[256:])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bpe:10", "", "a byte-level BPE has from 256 to 1,048,576 tokens in all"),
        ("bpe:99999999", "", "a byte-level BPE has from 256 to 1,048,576 tokens in all"),
        ("bpe", "", "no tokenizer is called so"),
        ("file:", "", "no tokenizer is called so"),
        ("bpe:5000", "", "the training split has pairs for"),
        ("file:t.json", "no JSON", "expected a tokenizer.json of a byte-level BPE without normalization"),
        ("file:t.json", "[]", "it is no JSON object"),
        ("file:t.json", "[" * 100_000, "it is no JSON object"),
        ("file:t.json", '{"model": {"type": "WordPiece"}}', "its model is no BPE"),
        ("file:t.json", '{"model": {"type": "BPE", "vocab": {"a": "b"}}}', "has no number"),
        ("file:t.json", '{"model": {"type": "BPE", "vocab": {"\u2581a": 0}}}', "is not spelled in bytes"),
        ("file:t.json", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', "not every byte is a token"),
        ("file:t.json", '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}}}', "two of its tokens have one number"),
        ("file:none.json", "", "No such file"),
    ],
)
def test_what_is_no_tokenizer_is_refused_in_one_line(verse: Path, name: str, content: str, said: str) -> None:
    (verse.parent / "t.json").write_text(content)
    study = verse.with_suffix(".yaml")
    study.write_text(json.dumps({"name": "s", "corpus": "verse.txt", "tokenizer": name}))
    with pytest.raises((ConfigError, CorpusError), match=said) as caught:
        stated = find_study(str(study))
        prepare(stated.text, stated.tokenizer)
    assert len(str(caught.value).splitlines()) == 1


PREFIXING = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
PANICKING = {"type": "FixedLength", "length": 0}


@pytest.mark.parametrize(
    "changed",
    [{"normalizer": {"type": "Lowercase"}}, *({"pre_tokenizer": cut} for cut in (None, PREFIXING, PANICKING))],
)
def test_a_file_whose_tokens_do_not_give_text_back_is_refused(
    verse: Path, bpe: ByteLevel, changed: dict[str, object]
) -> None:
    path = verse.with_name("t.json")
    path.write_text(bpe.definition)
    assert prepare(str(verse), f"file:{path}").tokenizer.byte_level == bpe
    path.write_text(json.dumps(json.loads(bpe.definition) | changed))
    with pytest.raises(CorpusError, match=r"normalizes text|give text back|does not give back|must be non-zero"):
        prepare(str(verse), f"file:{path}")


def test_a_text_of_fewer_tokens_than_a_block_is_refused(verse: Path) -> None:
    study = Study("s", str(verse), "bpe:300", base={"block_size": 600})
    facts = corpus_facts(study.text, "bpe:300")
    assert len(verse.read_text()) / 10 > 601 > (facts.val_tokens or 0)
    with pytest.raises(CorpusError, match=r"val split .* block_size=600 needs at least 601"):
        check_length(study.expand(facts)[0], facts)


def test_runs_are_named_by_what_their_tokenizer_is(verse: Path, bpe: ByteLevel) -> None:
    names = [verse.with_name(name) for name in ("a.json", "b.json", "c.json")]
    for path, known in zip(names, (bpe, bpe, train_bpe([VERSE * 20], 290)), strict=True):
        path.write_text(known.definition)
    study = Study("s", str(verse), factors={"tokenizer": tuple(f"file:{path}" for path in names)})
    runs = [
        run_id(replace(study, factors={}, tokenizer=str(name)).expand(corpus_facts(study.text, str(name)))[0])
        for name in study.tokenizers
    ]
    assert runs[0] == runs[1] != runs[2]
    facts = corpus_facts(study.text, "char")
    [config] = Study("s", str(verse)).expand(facts)
    assert run_id(config) == run_id(config.model_copy(update={"tokenizer_sha256": ""}))


def test_a_large_vocabulary_is_stored_in_four_bytes() -> None:
    assert token_dtype(65_536) == np.dtype("<u2") and token_dtype(65_537) == np.dtype("<u4")
    for data_N in (np.array([1, 65_535, 7], "<u2"), np.array([1, 4_000_000_000, 7], "<u4")):
        found = gather_windows(on_device(data_N, torch.device("cpu")), torch.tensor([0]), 2)
        assert found.tolist() == [data_N.tolist()]


@pytest.mark.parametrize("mode", ["exact", "sampled"])
@pytest.mark.parametrize("text", [VERSE * 60, MIXED * 60])
def test_bits_per_byte_of_one_distribution_do_not_depend_on_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, mode: str
) -> None:
    """A model that gives every byte a probability of its own, so that a token costs what its bytes do."""
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    (tmp_path / "text.txt").write_text(text)
    same_bytes = text.isascii()  # then all score the same targets; else every byte costs the same
    counts = np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=256) + 1
    nats = -np.log(counts / counts.sum()) if same_bytes else np.full(256, log(256))
    found: dict[str, float] = {}
    for name in ("char", "byte", "bpe:256", *([] if same_bytes else ["bpe:270"])):
        tokens = prepare(str(tmp_path / "text.txt"), name)
        spelled = [tokens.tokenizer.decode(np.array([token])).encode() for token in range(tokens.tokenizer.vocab_size)]
        if name != "char":
            spelled = [bytes([token]) for token in range(256)] + (
                tokens.tokenizer.byte_level or train_bpe([], 256)
            ).token_bytes[256:]
        costs_V = torch.tensor([sum(nats[byte] for byte in token) for token in spelled], dtype=torch.float64)
        monkeypatch.setattr(
            evaluate.gpt,
            "loss",
            lambda parameters, members, blocks, *_, costs_V=costs_V: costs_V[blocks[..., 1:]].mean((1, 2)),
        )
        study = Study("s", str(tmp_path / "text.txt"), name, base={**TINY, "eval": mode, "eval_iters": 3})
        stacked = stack([initial_state(study.expand(tokens.facts)[0])], torch.device("cpu"))
        [of] = evaluate.evaluate(stacked, DeviceTokens(tokens, torch.device("cpu")), Ranks()) or []
        found[name] = of.val_bpb
        if name == "char" and same_bytes:
            assert of.val_bpb == pytest.approx(of.val_loss / log(2), rel=1e-12)
    assert max(found.values()) - min(found.values()) < 1e-6
    if not same_bytes:
        assert found["char"] == pytest.approx(8)


ON_A_CPU = RunOptions(device="cpu", compile="off")
FACTOR = "name: s\nfactors:\n  tokenizer: [char, 'bpe:260', 'bpe:280']\n"


def test_tokenizers_of_a_study_are_its_factor_and_stated_once() -> None:
    study = parse_study(FACTOR, "s.yaml")
    assert study.tokenizers == ("char", "bpe:260", "bpe:280") and parse_study(dump_study(study), "s.yaml") == study
    assert [config.vocab_size for config in study.expand(ANY_DATA)] == [65, 260, 280]
    for more, said in (
        ("tokenizer: byte\n", "stated by itself and among the settings"),
        ("target: 1.5\n", "does not compare between tokenizers"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_study(FACTOR + more, "s.yaml")
    with pytest.raises(ConfigError, match="tuned: tokenizer"):
        parse_study(FACTOR.replace("factors", "tuned"), "s.yaml")


@pytest.mark.parametrize("section", ["tokenizer: {}", "base: {{tokenizer: {}}}", "factors: {{tokenizer: [char, {}]}}"])
def test_a_file_may_be_a_mapping_wherever_a_tokenizer_stands(tmp_path: Path, section: str) -> None:
    (tmp_path / "t.json").write_text("{}")
    found: list[Study] = []
    for spelled in ("'file:t.json'", "{file: t.json}"):
        (tmp_path / "s.yaml").write_text(f"name: s\n{section.format(spelled)}\n")
        found.append(find_study(str(tmp_path / "s.yaml")))
    assert found[0] == found[1] and found[0].tokenizers[-1] == f"file:{tmp_path / 't.json'}"
    (tmp_path / "s.yaml").write_text("name: s\nfactors: {tokenizer: [{file: a.json}, {file: b.json}]}\n")
    assert find_study(str(tmp_path / "s.yaml")).size == 2


@pytest.mark.parametrize(
    ("settings", "documents", "told"),
    [({}, None, True), ({"eval_val_tokens": 0}, None, False), ({"eval_val_tokens": 0}, {20_000: 10}, True)],
)
def test_tokenizers_that_are_scored_on_other_stretches_are_told(
    settings: dict[str, int], documents: dict[int, int] | None, told: bool
) -> None:
    study = Study("s", "x.txt", base=settings, factors={"tokenizer": ("char", "byte")})
    divided = None if documents is None else ((documents,), (documents,))
    facts = DataFacts("86c4", 65, 200_000, 1_800_000, documents=divided)
    data = joined_facts(dict.fromkeys(study.datasets, facts))
    found = audit(study, study.expand(data), data=data)
    assert ("tokenizers_on_other_text" in {one.code for one in found}) == told


def test_a_hypothesis_between_tokenizers_is_about_bits_per_byte() -> None:
    stated = "hypotheses: [{says: more is better, kind: effect, factor: %s, direction: down}]\n"
    [between] = parse_study(FACTOR + stated % "tokenizer", "s.yaml").hypotheses
    [of_one] = parse_study("name: s\nfactors: {n_layer: [1, 2]}\n" + stated % "n_layer", "s.yaml").hypotheses
    assert (getattr(between, "response", ""), getattr(of_one, "response", "")) == ("best_val_bpb", "best_val_loss")
    for response in ("final_val_loss", "best_ema_val_loss", "loss_roughness"):
        per_token = stated.replace("direction: down", f"direction: down, response: {response}")
        with pytest.raises(ConfigError, match="per token do not compare between tokenizers"):
            parse_study(FACTOR + per_token % "tokenizer", "s.yaml")


def test_gpt2s_ranks_count_as_tiktoken_does() -> None:
    """Tokens of tiny Shakespeare as nanoGPT's data/shakespeare has them from tiktoken, which splits it as we do."""
    try:
        tokens = prepare("tinyshakespeare", "gpt2")
    except CorpusError as error:
        if "could not be fetched" not in str(error):
            raise
        pytest.skip("neither the text nor GPT-2's merges can be fetched")
    assert (len(tokens.train_N), len(tokens.val_N)) == (301_966, 36_059)
    assert tokens.tokenizer.encode("hello world").tolist() == [31373, 995]
    assert int(tokens.tokenizer.bytes_of_tokens()[tokens.val_N].sum()) == 1_115_394 - int(1_115_394 * 0.9)


def test_what_is_wrong_with_one_text_is_told_before_another_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, content in (("a.txt", VERSE * 20), ("empty.txt", ""), ("no.json", "{}")):
        (tmp_path / name).write_text(content)
    for corpora, tokenizers, said in (
        ("a.txt, b.txt", "char", "no text file and no known corpus is called 'b.txt'"),
        ("a.txt, empty.txt", "char", "'empty.txt' is empty"),
        ("a.txt, 'files:x/*.jsonl,field=text'", "char", "no file is called"),
        ("a.txt", "char, 'file:no.json'", "no.json: expected a tokenizer.json"),
    ):
        study = parse_study(f"name: s\nfactors: {{corpus: [{corpora}], tokenizer: [{tokenizers}]}}\n", "s.yaml")
        with pytest.raises(CorpusError, match=re.escape(said)):
            prepare_each(study.datasets)
        with pytest.raises(CorpusError, match=re.escape(said)), owned(study_paths(study, tmp_path / "out")):
            prepare_each(study.datasets)
    assert not (tmp_path / "cache/tokens").exists() and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """A study of three tokenizers and two seeds, trained."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "verse.txt").write_text(LONGER)
    study = parse_study(FACTOR + f"base: {json.dumps(TINY)}\nseeds: 2\ncorpus: {folder / 'verse.txt'}\n", "s.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOLOSS_CACHE", str(folder / "cache"))
        return run_study(study, folder / "out", ON_A_CPU, executor=Inline(Ranks()))


def test_a_tokenizer_is_a_factor_like_any_other(compared: StudyResults) -> None:
    table = compared.summary()
    assert table["status"].to_list() == ["done"] * 6
    assert table["tokenizer"].to_list() == [name for name in compared.study.tokenizers for _ in range(2)]
    assert {config.tokenizer: config.vocab_size for config in compared.configs}["bpe:280"] == 280
    per_byte = pl.col("best_val_loss") / log(2)
    assert table.filter(tokenizer="char").select((pl.col("best_val_bpb") - per_byte).abs().max()).item() < 1e-9
    assert table.filter(pl.col("tokenizer") != "char").select((pl.col("best_val_bpb") < per_byte).all()).item()
    assert ranked_runs(table)["best_val_bpb"].is_sorted()
    again = load_study(compared.paths.folder)
    assert [*map(run_id, again.configs)] == [*map(run_id, compared.configs)]


def test_a_report_compares_tokenizers_by_the_byte(compared: StudyResults) -> None:
    snapshot = take_snapshot(compared)
    assert roles(compared.paths.folder, snapshot.done, None, None, None)[:2] == ("best_val_bpb", ["tokenizer"])
    effects, law = find(snapshot).effects, summary_columns(snapshot.done)
    assert isinstance(effects, Effects) and effects.response == "best_val_bpb" and law["loss"] == "final_val_bpb"
    assert [caution.text for caution in effects.cautions if caution.code == "bits_per_byte"] == [PER_BYTE]
    assert PER_BYTE in " ".join(method_chapter(snapshot).details)
    assert "bits per byte" in " ".join(answer_chapter(snapshot, []).answer)
    assert roles(compared.paths.folder, snapshot.done, None, None, None) == ("best_val_bpb", ["tokenizer"], "seed")
    assert "mean best val bits/byte" in [column.head for column in configurations_table(snapshot).columns]
    curves = unpacked(payload(snapshot, *runs_chapter(snapshot).tables))
    for number, run in enumerate(curves["runs"]["id"]):
        recorded = compared.evals(run)["val_bpb"].to_list()
        assert curves["curves"]["evals"]["val_bpb"][number] == pytest.approx(recorded, rel=1e-4)
    lowest = snapshot.done.group_by("tokenizer").agg(pl.col("best_val_bpb").mean()).sort("best_val_bpb")
    assert snapshot.ranking["tokenizer"].to_list() == lowest["tokenizer"].to_list()


def test_a_run_is_exported_with_its_own_tokenizer(compared: StudyResults, tmp_path: Path) -> None:
    for config in compared.configs[::2]:
        export_run(compared, compared.paths.run(run_id(config)), "hf", tmp_path / run_id(config))
        theirs = Theirs.from_file(str(tmp_path / run_id(config) / "tokenizer.json"))
        ours = prepare(compared.study.text, config.tokenizer).tokenizer
        assert theirs.encode(VERSE).ids == ours.encode(VERSE).tolist()
        assert theirs.get_vocab_size() == config.vocab_size


def test_an_exported_tokenizer_adds_no_tokens_that_the_model_lacks(bpe: ByteLevel) -> None:
    special = {"id": 300, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False}
    special |= {"normalized": False, "special": True}
    begins: list[dict[str, object]] = [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    tokens = {"<s>": {"id": "<s>", "ids": [300], "tokens": ["<s>"]}}
    template = {"type": "TemplateProcessing", "single": begins, "pair": begins, "special_tokens": tokens}
    known = ByteLevel(json.dumps(json.loads(bpe.definition) | {"added_tokens": [special], "post_processor": template}))
    theirs = Theirs.from_str(json.dumps(transformers_tokenizer(Tokenizer("file:t.json", byte_level=known))))
    assert theirs.encode("<s>to be").ids == known.encode("<s>to be").tolist() == bpe.encode("<s>to be").tolist()


def test_joined_studies_have_the_tokenizers_of_their_parts(compared: StudyResults, tmp_path: Path) -> None:
    shutil.copytree(compared.paths.folder, tmp_path / "copy")
    whole = merge_studies([compared.paths.folder, tmp_path / "copy"], tmp_path / "out").results
    opened = load_study(whole.paths.folder)
    assert {*map(run_id, opened.configs)} == {*map(run_id, compared.configs)}
    for dataset in compared.study.datasets:
        assert tokenizer_of(opened, dataset) == tokenizer_of(compared, dataset)
    one = replace(compared.study, factors={"tokenizer": ("char", "bpe:260")})
    with pytest.raises(ConfigError, match="different texts, validation splits or tokenizers"):
        check_same_text(compared, replace(compared, study=one))


def test_joined_studies_call_a_file_as_the_first_one_does(verse: Path, bpe: ByteLevel) -> None:
    studies: list[Study] = []
    for name, levels in (("a.json", (0.0, 0.1)), ("b.json", (0.1, 0.2))):
        verse.with_name(name).write_text(bpe.definition)
        studies.append(Study("s", str(verse), f"file:{verse.with_name(name)}", base=TINY, factors={"dropout": levels}))
    facts = corpus_facts(studies[0].text, studies[0].tokenizer)
    merged = joined(studies, [study.expand(facts) for study in studies])
    assert merged.tokenizers == (studies[0].tokenizer,) and merged.varied["dropout"] == (0.0, 0.1, 0.2)


def test_no_loss_per_token_is_the_best_of_several_tokenizers(compared: StudyResults) -> None:
    found = study_progress(compared.paths, compared.configs_by_id).best
    lowest = ranked_runs(compared.summary()).row(0, named=True)
    assert found and (found[0], found[1].val_bpb) == (lowest["run_id"], lowest["best_val_bpb"])
    assert f"{lowest['best_val_bpb']:.4f} bits/byte" in status_as_text(open_study(compared.paths.folder))
    char, bpe = (next(c for c in compared.configs if c.tokenizer == name) for name in ("char", "bpe:280"))
    runs = {"a": RunProgress(char, "done", "", 1, 1.0, Best(3.0, 1, 5.0))}
    runs["b"] = RunProgress(bpe, "done", "", 1, 1.0, Best(4.0, 1, 4.8))
    assert StudyProgress(runs, abandoned=False).best == ("b", Best(4.0, 1, 4.8))
    chars = {run: config for run, config in compared.configs_by_id.items() if config.tokenizer == "char"}
    of_char = study_progress(compared.paths, chars).best
    assert of_char and of_char[1].val_loss == min(compared.summary().filter(tokenizer="char")["best_val_loss"])


def test_a_study_may_gain_a_tokenizer(compared: StudyResults, tmp_path: Path) -> None:
    shutil.copytree(compared.paths.folder, tmp_path / "out")
    study = replace(compared.study, factors={"tokenizer": ("byte", "bpe:280")})
    grown = run_study(study, tmp_path / "out", ON_A_CPU, executor=Inline(Ranks()))
    assert grown.summary()["status"].to_list() == ["done"] * 4 and len(grown.set_aside) == 4
    assert grown.summary()["unique_tokens"].null_count() == 0
    before = dict(compared.summary().select("run_id", "unique_tokens").iter_rows())
    aside = dict(grown.summary_of_set_aside().select("run_id", "unique_tokens").iter_rows())
    assert aside == {run: before[run] for run in aside} and len(aside) == 4
    assert {run_id(config) for config in grown.configs} & {run_id(config) for config in compared.configs}
    byte, bpe = grown.study.datasets
    assert load_study(grown.paths.folder).facts.of(byte).vocab_size == 256
    definition = grown.paths.definition(grown.facts.of(bpe).tokenizer_sha256)
    definition.write_text("damaged")
    run_study(study, tmp_path / "out", ON_A_CPU, executor=Inline(Ranks()))
    assert tokenizer_of(grown, bpe) == tokenizer_of(compared, bpe)
    run_study(
        replace(study, factors={"tokenizer": ("byte", "bpe:270")}), tmp_path / "out", ON_A_CPU, executor=Inline(Ranks())
    )
    recorded = [each.tokenizer for each in recorded_tokenizers(grown.paths)]
    assert recorded == ["byte", "bpe:270", "bpe:280", "char", "bpe:260"]


def test_a_tokenizer_that_changed_under_its_name_is_refused(compared: StudyResults) -> None:
    facts = {dataset: compared.facts.of(dataset) for dataset in compared.study.datasets}
    *_, bpe = facts
    assert recorded_study(replace(compared, facts=joined_facts(facts))) is not None
    facts[bpe] = replace(facts[bpe], tokenizer_sha256="0" * 64)
    with pytest.raises(ConfigError, match=r"tokenizer bpe:280 is another than when .* was started; choose another"):
        recorded_study(replace(compared, facts=joined_facts(facts)))


def test_a_definition_of_a_stranger_is_refused_in_one_line(compared: StudyResults, tmp_path: Path) -> None:
    shutil.copytree(compared.paths.folder, tmp_path / "out")
    results = load_study(tmp_path / "out")
    char, *_, bpe = results.study.datasets
    record = results.tokenizer(bpe)
    known = json.loads(results.paths.definition(record["tokenizer_sha256"]).read_text())
    for changed in (
        {"pre_tokenizer": {"type": "Odd"}},
        {"pre_tokenizer": None},
        {"model": {"type": "BPE", "vocab": {}}},
    ):
        definition = json.dumps(known | changed)
        sha256 = sha256_bytes(definition.encode())
        results.paths.definition(sha256).write_text(definition)
        others = [record | {"tokenizer_sha256": sha256}]
        write_record(results.paths.tokenizer, {**results.tokenizer(char), "others": others})
        with pytest.raises(StoreError) as caught:
            tokenizer_of(results, bpe)
        assert len(str(caught.value).splitlines()) == 1
    write_record(results.paths.tokenizer, {**results.tokenizer(char), "others": [record | {"vocab_size": 290}]})
    with pytest.raises(StoreError, match="has 280 tokens, its study says 290"):
        tokenizer_of(results, bpe)


def test_evaluations_without_bits_have_none() -> None:
    rows = [{"step": 0, "train_loss": 1.0, "val_loss": 2.0, "eval_time_s": 1.0}]
    found = measure([], rows)  # type: ignore[arg-type]
    assert (found.get("best_val_bpb"), found.get("final_val_bpb"), found["best_val_loss"]) == (None, None, 2.0)
