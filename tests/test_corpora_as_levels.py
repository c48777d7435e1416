"""Corpora as levels of a factor: named, trained each on its own text, and compared in a unit that compares."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from isoloss.analysis.effects import Effects
from isoloss.analysis.laws import summary_columns
from isoloss.cli.plan import plan_as_text
from isoloss.data.tokens import corpus_facts
from isoloss.design.audit_settings import settings_findings
from isoloss.errors import ConfigError, Interrupted
from isoloss.execution.estimate import plan_study
from isoloss.execution.executor import Inline
from isoloss.execution.export import export_run
from isoloss.execution.options import RunOptions
from isoloss.execution.samples import tokenizer_of
from isoloss.execution.study import run_study
from isoloss.report.chapters.comparison import compare_studies
from isoloss.report.chapters.method import method_chapter
from isoloss.report.findings import find
from isoloss.report.snapshot import take_snapshot
from isoloss.store.merging import merge_studies
from isoloss.store.revisions import revisions
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.datasets import PER_BYTE, PER_BYTE_OF_TEXTS, Dataset, compared_loss, dataset_of
from isoloss.study.identity import run_id
from isoloss.study.stacking import shape_key
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study, find_study, parse_study
from isoloss.study.texts import ANY_DATA, Text, joined_facts

TINY = {
    "n_layer": 1, "n_embd": 8, "n_head": 1, "block_size": 8, "batch_size": 2, "max_iters": 4, "warmup_iters": 1,
    "eval_interval": 2, "eval_train_tokens": 64, "eval_val_tokens": 64, "precision": "fp32",
}  # fmt: skip
OPTIONS = RunOptions(device="cpu", compile="off")
CHAIN = "{synthetic: markov, order: 1, symbols: 8, seed: 1, tokens: 3000}"
STUDY = f"""name: s
base: {json.dumps(TINY)}
factors:
  corpus: [texts/a.txt, [b.txt, c.txt], {CHAIN}]
"""
NAMES = ("a.txt", "b.txt + c.txt", "markov symbols 8 seed 1 tokens 3000 order 1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path)
    return tmp_path


def write_texts(folder: Path) -> None:
    (folder / "texts").mkdir()
    (folder / "texts/a.txt").write_text("to be or not to be, " * 60)
    (folder / "b.txt").write_text("It was the best of times\n" * 40)
    (folder / "c.txt").write_text("Now is the winter of our discontent\n" * 30)


def train(study: Study, out: Path) -> StudyResults:
    return run_study(study, out, OPTIONS, executor=Inline())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """Three corpora with two seeds."""
    folder = tmp_path_factory.mktemp("corpora")
    write_texts(folder)
    (folder / "s.yaml").write_text(STUDY + "seeds: 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOLOSS_CACHE", str(folder / "cache"))
        return train(find_study(str(folder / "s.yaml")), folder / "out")


def test_a_corpus_in_any_form_is_a_level_under_a_short_name() -> None:
    study = parse_study(STUDY, "s.yaml")
    assert study.varied["corpus"] == NAMES and [each.corpus for each in study.datasets] == [*NAMES]
    assert [text.corpus for text in study.datasets.values()][:2] == ["texts/a.txt", ("b.txt", "c.txt")]
    assert parse_study(dump_study(study), "s.yaml") == study
    named = parse_study("name: s\ncorpora: {two: [b.txt, c.txt]}\nfactors: {corpus: [two, a.txt]}\n", "s.yaml")
    assert named.varied["corpus"] == ("two", "a.txt")
    alone = parse_study("name: s\ncorpora: {two: [b.txt, c.txt]}\ncorpus: two\n", "s.yaml")
    assert alone.text == Text(("b.txt", "c.txt"))
    twins = parse_study("name: s\nfactors: {corpus: [x/a.txt, y/a.txt]}\n", "s.yaml")
    assert twins.varied["corpus"] == ("a.txt", "y/a.txt")
    outer = parse_study("name: s\nfactors: {corpus: [a.txt, x/a.txt]}\nexclude: [{corpus: a.txt}]\n", "s.yaml")
    assert [text.corpus for text in outer.datasets.values()] == ["x/a.txt"]
    far = "[tinystories, 'files:data/a.jsonl,field=text', 'tokens:x/s_*.bin', 'dataset:u/Books,field=text,revision=%s']"
    shorts = parse_study(f"name: s\nfactors: {{corpus: {far % ('0' * 40)}}}\n", "s.yaml")
    assert shorts.varied["corpus"] == ("tinystories", "a.jsonl", "s_*.bin", "Books")
    one = study.with_settings({"corpus": "b.txt + c.txt"})
    assert one.text == Text(("b.txt", "c.txt")) and not one.varied_texts


def test_levels_of_a_factor_are_found_beside_the_study_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "s.yaml").write_text(STUDY + "exclude: [{corpus: a.txt}]\n")
    monkeypatch.chdir("/")
    study = find_study(str(folder / "s.yaml"))
    assert study.varied["corpus"] == NAMES[1:]
    assert study.corpora["a.txt"] == str(folder / "texts/a.txt")
    assert study.corpora[NAMES[1]] == (str(folder / "b.txt"), str(folder / "c.txt"))
    assert parse_study(dump_study(study), "s.yaml") == study


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("factors:\n  corpus: [a.txt, {synthetic: markow}]", "s.yaml:3: corpus: synthetic='markow' is no kind of text"),
        ("factors:\n  corpus: [a.txt, 3]", "s.yaml:3: corpus: expected a known name, a path"),
        ("factors:\n  corpus: [a.txt, a.txt]", "s.yaml:3: factor 'corpus' repeats a level"),
        ("factors:\n  corpus: {from: 1, to: 2}", "s.yaml:3: factor 'corpus' is no number, so it has no range"),
        ("corpus: b.txt\nfactors: {corpus: [a.txt]}", "s.yaml:2: corpus is stated by itself and among the settings"),
        ("base: {corpus: a.txt}", "s.yaml:2: unknown setting 'corpus' in base: corpus is stated beside base"),
        ("tuned: {corpus: [a.txt, b.txt]}", "s.yaml:2: tuned: corpus: losses per token do not compare"),
        ("factors: {corpus: [a.txt, b.txt]}\ntarget: 1.5", "s.yaml:3: target is a loss per token"),
        ("val_corpus: a.txt\nfactors: {corpus: [a.txt, b.txt]}", "s.yaml:2: 'a.txt' is in corpus and in val_corpus"),
        ("corpora: {a: 3}", "s.yaml:2: corpora: a: expected a known name"),
        ("corpora: 3", "s.yaml:2: corpora=3: expected names"),
        (
            "factors: {corpus: [x/a.txt, a.txt]}",
            "s.yaml:2: corpus: 'a.txt' and 'x/a.txt' are both called 'a.txt'; name them under corpora",
        ),
        (
            "runs:\n- {corpus: x/a.txt, n_embd: 32}\n- {corpus: a.txt, n_embd: 64}",
            "s.yaml:4: corpus: 'a.txt' and 'x/a.txt' are both called 'a.txt'; name them under corpora",
        ),
        (
            "factors: {corpus: [a.txt, b.txt]}\nhypotheses:\n- {says: more, kind: effect, factor: corpus, "
            "direction: up, response: best_val_loss}",
            "losses per token do not compare between texts; state best_val_bpb or final_val_bpb",
        ),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line(lines: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        parse_study(f"name: s\n{lines}\n", "s.yaml")
    assert len(str(caught.value).splitlines()) == 1


def test_losses_compare_per_token_on_one_validation_text_in_the_same_tokens() -> None:
    def unit(*datasets: tuple[str, str, str]) -> str:
        return compared_loss([Dataset(*each) for each in datasets])

    assert unit(("a", "", "char")) == unit(("a", "v", "char"), ("b", "v", "char")) == "val_loss"
    assert unit(("a", "v", "byte"), ("b", "v", "byte")) == unit(("a", "v", "gpt2"), ("b", "v", "gpt2")) == "val_loss"
    assert unit(("a", "", "char"), ("b", "", "char")) == unit(("a", "v", "char"), ("a", "w", "char")) == "val_bpb"
    assert unit(("a", "v", "bpe:300"), ("b", "v", "bpe:300")) == unit(("a", "", "char"), ("a", "", "byte")) == "val_bpb"


def test_runs_are_named_by_their_text_and_keep_the_names_they_have_without_a_factor(folder: Path) -> None:
    study = parse_study(STUDY, "s.yaml")
    facts = joined_facts({each: corpus_facts(text, each.tokenizer) for each, text in study.datasets.items()})
    configs = study.expand(facts)
    for config, text in zip(configs, study.datasets.values(), strict=True):
        [alone] = replace(study, factors={}, corpora={}, corpus=text.corpus).expand(corpus_facts(text, "char"))
        assert run_id(config) == run_id(alone) and config.vocab_size == alone.vocab_size
    assert len({*map(shape_key, configs)}) == len({*map(run_id, configs)}) == 3
    (folder / "copy.txt").write_text((folder / "b.txt").read_text())
    same = parse_study("name: s\nfactors: {corpus: [b.txt, copy.txt]}\n", "s.yaml")
    facts = joined_facts({each: corpus_facts(text, each.tokenizer) for each, text in same.datasets.items()})
    with pytest.raises(ConfigError, match=r"what it computes does not depend on corpus \(corpus=b.txt and corpus=copy"):
        same.expand(facts)
    assert len(same.expand(ANY_DATA)) == 2


def test_each_run_trains_on_its_own_text(trained: StudyResults) -> None:
    table = trained.summary()
    assert table["status"].to_list() == ["done"] * 6
    assert table["corpus"].to_list() == [name for name in NAMES for _ in range(2)]
    known = table["true_val_loss"].is_not_null().to_list()
    assert known == table["entropy_rate"].is_not_null().to_list() == [False] * 4 + [True] * 2
    for config in trained.configs[::2]:
        record = trained.tokenizer(dataset_of(config))
        assert (record["corpus"], record["val_corpus"], record["corpus_sha256"]) == (
            config.corpus, "", config.corpus_sha256
        )  # fmt: skip
        assert tokenizer_of(trained, dataset_of(config)).vocab_size == config.vocab_size
    opened = load_study(trained.paths.folder)
    assert [*map(run_id, opened.configs)] == [*map(run_id, trained.configs)]
    assert opened.true_losses.keys() == {trained.configs[-1].corpus_sha256}


def test_a_report_compares_corpora_by_the_byte_and_says_that_their_texts_differ(trained: StudyResults) -> None:
    snapshot = take_snapshot(trained)
    found = find(snapshot)
    effects = found.effects
    assert isinstance(effects, Effects) and effects.response == "best_val_bpb"
    assert not snapshot.curves.positions.is_empty() and found.positions is None
    assert [each.text for each in effects.cautions if each.code == "bits_per_byte"] == [PER_BYTE_OF_TEXTS]
    assert summary_columns(snapshot.done)["loss"] == "final_val_bpb"
    said = " ".join(method_chapter(snapshot).details)
    texts = trained.paths.folder.parent / "texts/a.txt"
    assert f"One corpus (a.txt) is {texts}, SHA-256" in said and PER_BYTE_OF_TEXTS in said and PER_BYTE not in said
    sizes = [trained.facts.of(each).vocab_size for each in trained.study.datasets]
    assert f"with vocabularies of {sizes[0]} (a.txt), {sizes[1]} (b.txt + c.txt) and {sizes[2]} (markov" in said


def test_a_plan_counts_each_text(folder: Path) -> None:
    (folder / "s.yaml").write_text(STUDY)
    said = plan_as_text(plan_study(find_study("s.yaml"), OPTIONS))
    assert "a.txt: 1,080 training tokens, 120 of validation" in said
    assert "markov symbols 8 seed 1 tokens 3000 order 1: 2,700 training tokens" in said


def test_one_validation_text_lets_losses_compare_per_token(folder: Path) -> None:
    study = parse_study(STUDY.replace("[b.txt, c.txt]", "b.txt") + "val_corpus: c.txt\ntarget: 9.0\n", "s.yaml")
    results = train(study, folder / "out")
    table = results.summary()
    assert table["val_corpus"].to_list() == ["c.txt"] * 3 and table["steps_to_target"].to_list() == [0] * 3
    assert "true_val_loss" not in table.columns  # the source is trained on, and another text scored
    snapshot = take_snapshot(results)
    assert snapshot.loss_unit == "nats per token" and summary_columns(snapshot.done)["loss"] == "final_val_loss"
    found = {each.code: each.text for each in settings_findings(results.configs, results.facts, None)}
    assert "Corpora have 18 to 24 characters" in found["vocabularies_differ"]
    assert "vocabularies_differ" not in {each.code for each in settings_findings(results.configs[:1], None, None)}
    assert {of.val_tokens for of in results.facts.each} == {1080}
    assert len({of.sha256 for of in results.facts.each}) == 3


def test_a_study_gains_a_corpus_and_refuses_one_that_changed(trained: StudyResults, folder: Path) -> None:
    one = parse_study(f"name: s\ncorpus: texts/a.txt\nbase: {json.dumps(TINY)}\n", "s.yaml")
    train(one, folder / "out")
    both = parse_study(f"name: s\nbase: {json.dumps(TINY)}\nfactors: {{corpus: [texts/a.txt, b.txt]}}\n", "s.yaml")
    grown = train(both, folder / "out")
    assert grown.summary()["status"].to_list() == ["done"] * 2 and not grown.set_aside
    [change] = revisions(grown.paths)
    assert change.changes == ("corpus gained a.txt, b.txt", "corpus lost texts/a.txt")
    assert [*map(run_id, load_study(folder / "out").configs)] == [*map(run_id, grown.configs)]
    (folder / "b.txt").write_text("It was the worst of times\n" * 40)
    with pytest.raises(ConfigError, match=r"the text 'b\.txt', or what of it is validation, changed since out was"):
        run_study(both, "out", OPTIONS, executor=Inline())
    (folder / "moved.txt").write_bytes((folder / "texts/a.txt").read_bytes())
    moved = replace(one, corpus="moved.txt")
    assert len(train(moved, folder / "out").set_aside) == 1
    assert run_id(trained.configs[0]) == run_id(load_study(folder / "out").configs[0])


def test_a_run_that_was_stopped_goes_on_under_another_name_of_its_text(folder: Path) -> None:
    longer = {**TINY, "max_iters": 8}
    one = parse_study(f"name: s\ncorpus: texts/a.txt\nbase: {json.dumps(longer)}\n", "s.yaml")
    asked = itertools.count()
    with pytest.raises(Interrupted):
        run_study(one, "out", OPTIONS, executor=Inline(), should_stop=lambda: next(asked) > 9)
    assert 0 < len(load_study("out").metrics(load_study("out").summary()["run_id"][0])) < 8
    both = parse_study(
        f"name: s\nbase: {json.dumps(longer)}\nfactors: {{corpus: [texts/a.txt, b.txt]}}\nseeds: 2\n", "s.yaml"
    )
    grown, alone = train(both, folder / "out"), train(one, folder / "alone")
    assert grown.summary()["status"].to_list() == ["done"] * 4
    run = run_id(alone.configs[0])
    assert grown.evals(run).drop("eval_time_s").equals(alone.evals(run).drop("eval_time_s"))


def test_halves_by_corpus_and_by_tokenizer_are_joined(folder: Path) -> None:
    def half(name: str, factors: str) -> Path:
        study = parse_study(f"name: s\nbase: {json.dumps(TINY)}\nfactors: {factors}\n", "s.yaml")
        return train(study, folder / name).paths.folder

    halves = [half("1", "{corpus: [texts/a.txt]}"), half("2", "{corpus: [b.txt], tokenizer: [char, byte]}")]
    whole = merge_studies(halves, folder / "whole").results
    opened = load_study(whole.paths.folder)
    assert opened.study.varied["corpus"] == ("a.txt", "b.txt") and opened.study.tokenizers == ("char", "byte")
    assert {*opened.summary()["status"]} == {"done"} and len(opened.configs) == 3
    again = train(opened.study, whole.paths.folder)  # under the names that were recorded
    assert again.facts == opened.facts and tokenizer_of(again, dataset_of(again.configs[1])).vocab_size < 256
    with pytest.raises(ConfigError, match="different texts, validation splits or tokenizers"):
        compare_studies(load_study(halves[0]), load_study(halves[1]))
    (folder / "b.txt").write_text("It was the worst of times\n" * 40)
    with pytest.raises(ConfigError, match=r"'b\.txt' of 3 is another than that of .*/2"):
        merge_studies([halves[1], half("3", "{corpus: [b.txt]}").relative_to(folder)], folder / "none")
    assert not (folder / "none").exists()


def test_halves_by_tokenizer_of_one_text_are_joined(folder: Path) -> None:
    halves: list[Path] = []
    for name in ("char", "bpe:260"):
        study = Study("s", "b.txt", name, base=TINY)
        halves.append(train(study, folder / name.replace(":", "")).paths.folder)
    opened = load_study(merge_studies(halves, folder / "whole").results.paths.folder)
    assert opened.summary()["tokenizer"].to_list() == ["char", "bpe:260"]
    assert tokenizer_of(opened, dataset_of(opened.configs[1])).vocab_size == 260
    assert "val_corpus" not in opened.tokenizer()


def test_a_run_is_exported_with_the_vocabulary_of_its_text(trained: StudyResults, tmp_path: Path) -> None:
    config = trained.configs[-1]
    export_run(trained, trained.paths.run(run_id(config)), "hf", tmp_path / "out")
    assert len(json.loads((tmp_path / "out/tokenizer.json").read_text())["model"]["vocab"]) == config.vocab_size == 8


def test_studies_of_the_same_corpora_are_compared_corpus_by_corpus(trained: StudyResults, tmp_path: Path) -> None:
    shutil.copytree(trained.paths.folder, tmp_path / "copy")
    found = compare_studies(trained, load_study(tmp_path / "copy"))
    assert found.shared["corpus"].unique(maintain_order=True).to_list() == [*NAMES] and len(found.shared) == 6
    assert (
        found.unit == "bits per byte" and found.shared["first"].to_list() == trained.summary()["best_val_bpb"].to_list()
    )


def test_a_copy_of_a_directory_joins_itself(trained: StudyResults, tmp_path: Path) -> None:
    shutil.copytree(trained.paths.folder, tmp_path / "copy")
    whole = merge_studies([trained.paths.folder, tmp_path / "copy"], tmp_path / "whole").results
    opened = load_study(whole.paths.folder)
    assert opened.facts == trained.facts and opened.true_losses == trained.true_losses
