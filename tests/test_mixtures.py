"""Mixtures: rows drawn by shares as a function of seed and step, each text split apart, and validated in the shares."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from isoloss.cli.verbs import study_of
from isoloss.data.batches import Layout, exact_eval_starts, sampled_eval_starts, train_batch
from isoloss.data.token_files import open_tokens
from isoloss.data.tokens import check_length, corpus_facts, prepare
from isoloss.errors import ConfigError, CorpusError, Interrupted, StoreError
from isoloss.execution.executor import Inline
from isoloss.execution.options import RunOptions
from isoloss.execution.study import run_study
from isoloss.files import read_record, write_record
from isoloss.report.chapters.method import method_chapter
from isoloss.report.snapshot import take_snapshot
from isoloss.store.tables import load_study
from isoloss.study.datasets import dataset_of
from isoloss.study.identity import run_id
from isoloss.study.mixtures import Mixture, Parts
from isoloss.study.plainyaml import read_yaml
from isoloss.study.repeats import epochs, unique_tokens
from isoloss.study.schema import study_schema
from isoloss.study.study import Study
from isoloss.study.studyfile import corpus_in_words, dump_study, find_study, parse_study
from isoloss.study.synthetic import is_synthetic, synthetic_named
from isoloss.study.texts import Text
from isoloss.training import evaluate
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens
from isoloss.training.state import initial_state, stack
from isoloss.training.step import Stepper

TINY = {
    "n_layer": 1, "n_embd": 8, "n_head": 1, "block_size": 8, "batch_size": 4, "max_iters": 8, "warmup_iters": 1,
    "eval_interval": 2, "eval_train_tokens": 64, "eval_val_tokens": 64, "precision": "fp32",
}  # fmt: skip
OPTIONS = RunOptions(device="cpu", compile="off")
MIX = Mixture(("a.txt", "b.txt"), (0.75, 0.25))
PARTS = Parts((1000, 400, 600), (0.5, 0.3, 0.2))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("to be or not to be, " * 100)
    (tmp_path / "b.txt").write_text("ÄÖÜ AND THEN\n" * 50)
    (tmp_path / "c.txt").write_text("now is the winter of our discontent\n" * 20)
    return tmp_path


def of_part(starts: np.ndarray, parts: Parts = PARTS) -> np.ndarray:
    """The text that each start lies in, as far as its block does."""
    return np.searchsorted(np.cumsum(parts.lengths), starts, side="right")


def test_a_mixture_is_stated_by_names_or_by_a_list_and_reads_as_it_was() -> None:
    study = parse_study("name: s\ncorpus: {mix: {a.txt: 0.75, b.txt: 0.25}}\n", "s.yaml")
    assert study.corpus == MIX and study.text.name == "0.75 a.txt + 0.25 b.txt"
    assert parse_study(dump_study(study), "s.yaml") == study
    listed = "{mix: [{corpus: [a.txt, c.txt], share: 0.5}, {corpus: {synthetic: markov, order: 1, symbols: 4, seed: 1, "
    listed += "tokens: 2000}, share: 0.5}]}"
    levels = parse_study(f"name: s\nfactors:\n  corpus: [a.txt, {listed}]\n", "s.yaml")
    assert levels.varied["corpus"] == ("a.txt", "0.5 a.txt + c.txt + 0.5 markov symbols 4 seed 1 tokens 2000 order 1")
    assert parse_study(dump_study(levels), "s.yaml") == levels
    for text in ("{mix: {a.txt: 0.75, b.txt: 0.25}}", listed):
        written = read_yaml(f"name: s\ncorpus: {text}\n", "s.yaml")[0]
        assert Draft202012Validator(study_schema()).is_valid(written)
    assert not Draft202012Validator(study_schema()).is_valid({"name": "s", "corpus": {"mix": {"a.txt": 2}}})


def test_a_mixture_may_name_what_stands_under_corpora() -> None:
    corpora = "name: s\ncorpora: {two: [b.txt, c.txt], both: {mix: {a.txt: 0.5, two: 0.5}}, chain: CHAIN}\n"
    corpora = corpora.replace("CHAIN", "{synthetic: markov, order: 1, symbols: 4, seed: 1, tokens: 2000}")
    mixed = Mixture(("a.txt", ("b.txt", "c.txt")), (0.5, 0.5))
    for stated in ("{mix: {a.txt: 0.5, two: 0.5}}", "{mix: [{corpus: a.txt, share: 0.5}, {corpus: two, share: 0.5}]}"):
        assert parse_study(f"{corpora}corpus: {stated}\n", "s").corpus == mixed
        levels = parse_study(f"{corpora}factors: {{corpus: [both, two, {stated.replace('two', 'chain')}]}}\n", "s")
        assert levels.corpora["both"] == mixed and levels.corpora["two"] == ("b.txt", "c.txt")
        assert any(is_synthetic(each.corpora[1]) for each in levels.corpora.values() if isinstance(each, Mixture))
        assert parse_study(dump_study(levels), "s") == levels
    with pytest.raises(ConfigError, match="a mixture holds no other mixture"):
        parse_study(f"{corpora}corpus: {{mix: {{both: 0.5, d.txt: 0.5}}}}\n", "s")
    collides = parse_study("name: s\nfactors: {corpus: [x/a.txt, {mix: {a.txt: 0.75, b.txt: 0.25}}]}\n", "s")
    assert collides.corpora["a.txt"] == "x/a.txt" and parse_study(dump_study(collides), "s") == collides
    assert MIX in collides.corpora.values()
    called_mix = "name: s\ncorpora: {mix: {mix: {a.txt: 0.75, b.txt: 0.25}}}\nfactors: {corpus: [a.txt, mix]}\n"
    assert parse_study(called_mix, "s").corpora["mix"] == MIX
    with pytest.raises(ConfigError, match="a mixture holds no other mixture"):
        parse_study("name: s\ncorpora: {a: {mix: {a: 0.5, b.txt: 0.5}}}\ncorpus: a\n", "s")


def test_a_command_line_states_mixtures_as_study_files_do(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("name: s\nfactors: {corpus: [a.txt, b.txt]}\n")
    changed = study_of(str(tmp_path / "s.yaml"), None, ("corpus={mix: {a.txt: 0.75, b.txt: 0.25}}",))
    assert changed.corpus == MIX and not changed.varied_texts
    (tmp_path / "s.yaml").write_text("name: s\ncorpora: {mine: [b.txt, c.txt]}\nfactors: {corpus: [mine, a.txt]}\n")
    changed = study_of(str(tmp_path / "s.yaml"), None, ("corpus={mix: {a.txt: 0.5, mine: 0.5}}",))
    assert changed.corpus == Mixture(("a.txt", ("b.txt", "c.txt")), (0.5, 0.5))
    assert corpus_in_words(["{mix: {a.txt: 0.75, b.txt: 0.25}}"], "--corpus") == MIX
    assert corpus_in_words(["a.txt"], "--corpus") == "a.txt" and corpus_in_words(["a", "b"], "--corpus") == ("a", "b")
    assert str(corpus_in_words(["tinystories"], "--corpus")).startswith(
        "dataset:roneneldan/TinyStories,field=text,revision="
    )
    source = "synthetic:markov,order=2,symbols=32,seed=1,tokens=5e7"
    assert corpus_in_words([source], "--corpus") == synthetic_named(source).name
    for words, said in {
        ("{mix: {a.txt: 0.75, b.txt: 0.2}}",): "--corpus: shares sum to 0.95, not to 1",
        ("{mix: [}",): "--corpus:1: not valid YAML",
        ("",): "--corpus: expected a known name",
    }.items():
        with pytest.raises(ConfigError) as raised:
            corpus_in_words(words, "--corpus")
        assert str(raised.value).startswith(said) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ("{a.txt: 0.7, b.txt: 0.2}", "shares sum to 0.9, not to 1"),
        ("{a.txt: 1.5, b.txt: -0.5}", "share 1.5 is no number from 0 to 1"),
        ("{a.txt: half, b.txt: 0.5}", "share 'half' is no number from 0 to 1"),
        ("{a.txt: 1.0}", "a mixture has two corpora or more"),
        ("[{corpus: a.txt, share: 0.5}, {corpus: [a.txt], share: 0.5}]", "'a.txt' stands twice in one mixture"),
        ("[{corpus: a.txt}]", "expected {mix: {a.txt: 0.7, b.txt: 0.3}}"),
        ("[{corpus: {mix: {a.txt: 0.5, b.txt: 0.5}}, share: 0.5}, {corpus: c.txt, share: 0.5}]", "no other mixture"),
        ("{a.txt: 0.5, b.txt: 0.5}, seed: 1", "unknown key 'seed' beside mix"),
    ],
)
@pytest.mark.parametrize("place", ["corpus: {{mix: {}}}", "factors: {{corpus: [c.txt, {{mix: {}}}]}}"])
def test_what_is_no_mixture_is_refused_in_one_line(mix: str, said: str, place: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        parse_study(f"name: s\n{place.format(mix)}\n", "s.yaml")
    assert str(caught.value).startswith("s.yaml:2: corpus: ") and len(str(caught.value).splitlines()) == (
        2 if "1.5" in said else 1
    )


def test_paths_of_a_mixture_are_relative_to_the_study_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "s.yaml").write_text("name: s\ncorpus: {mix: {a.txt: 0.75, tinyshakespeare: 0.25}}\n")
    monkeypatch.chdir("/")
    assert find_study(str(folder / "s.yaml")).corpus == replace(MIX, corpora=(str(folder / "a.txt"), "tinyshakespeare"))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["char", "byte", "bpe:260"])
def test_each_text_of_a_mixture_has_its_own_end_for_validation(name: str) -> None:
    tokens = prepare(Text(MIX), name)
    texts = [Path(each).read_text() for each in ("a.txt", "b.txt")]
    units = [text.encode() if name == "byte" else text for text in texts]
    cuts = [int(0.9 * len(unit)) for unit in units]
    train = [unit[:cut] for unit, cut in zip(units, cuts, strict=True)]
    val = [unit[cut:] for unit, cut in zip(units, cuts, strict=True)]
    spelled = tokens.tokenizer.to_bytes
    join = b"" if name == "byte" else ""
    expected = [join.join(each) for each in (train, val)]  # type: ignore[arg-type]
    found = [spelled(each) for each in (tokens.train_N, tokens.val_N)]
    assert found == [each if isinstance(each, bytes) else each.encode() for each in expected]
    assert tokens.train_parts is not None and tokens.val_parts is not None
    offset = tokens.train_parts.lengths[0]
    assert spelled(tokens.train_N[:offset]).decode() == texts[0][: cuts[0]]
    assert tokens.val_parts.shares == (0.75, 0.25) and sum(tokens.val_parts.lengths) == len(tokens.val_N)
    opened = open_tokens(tokens.folder)
    assert (opened.train_parts, opened.val_parts) == (tokens.train_parts, tokens.val_parts)
    assert corpus_facts(Text(MIX), name) == tokens.facts or name == "byte"
    assert tokens.facts.val_tokens == int(
        min(n / s for n, s in zip(tokens.val_parts.lengths, (0.75, 0.25), strict=True))
    )
    if name == "char":
        assert tokens.tokenizer.characters == "".join(sorted({*"".join(texts)}))
    record = read_record(tokens.folder / "meta.json")
    for parts in ({"lengths": [1, 2], "shares": [0.5, 0.5]}, {"lengths": "x"}, 3):
        write_record(tokens.folder / "meta.json", {**record, "train_parts": parts})
        with pytest.raises(StoreError, match="not those of a mixture"):
            open_tokens(tokens.folder)


@pytest.mark.usefixtures("folder")
def test_a_text_of_its_own_validates_a_mixture_whole() -> None:
    tokens = prepare(Text(MIX, "c.txt"))
    assert tokens.val_parts is None and tokens.tokenizer.decode(tokens.val_N) == Path("c.txt").read_text()
    both = prepare(Text("c.txt", MIX))
    assert both.train_parts is None and both.val_parts == Parts((2000, 650), (0.75, 0.25))
    with pytest.raises(ConfigError, match=r"'b\.txt' is in corpus and in val_corpus"):
        Study("s", MIX, val_corpus="b.txt")
    Path("copy.txt").write_bytes(Path("a.txt").read_bytes())
    twice = Mixture(("a.txt", "copy.txt"), (0.5, 0.5))
    for read in (prepare, corpus_facts):
        for text, said in (
            (Text(twice), "two texts of a mixture are the same; state it once"),
            (Text("c.txt", twice), "two texts of a mixture are the same; state it once"),
            (Text(MIX, "copy.txt"), "what is trained on validates nothing"),
        ):
            with pytest.raises(CorpusError, match=said):
                read(text, "char")


@pytest.mark.usefixtures("folder")
def test_runs_are_named_by_contents_and_shares() -> None:
    def name(text: Text) -> str:
        study = Study("s", text.corpus, val_corpus=text.val_corpus)
        return run_id(study.expand(corpus_facts(text, "char"))[0])

    Path("copy.txt").write_bytes(Path("a.txt").read_bytes())
    other = Mixture(("a.txt", "b.txt"), (0.5, 0.5))
    names = [name(Text(each)) for each in (MIX, other, ("a.txt", "b.txt"), "a.txt")] + [name(Text(MIX, "c.txt"))]
    assert len({*names}) == 5 and name(Text(Mixture(("copy.txt", "b.txt"), (0.75, 0.25)))) == names[0]


def laid_out(parts: Parts) -> Layout:
    return Layout(np.cumsum(parts.lengths), parts)


def test_rows_are_drawn_by_shares_as_a_function_of_seed_and_step() -> None:
    data_N = np.arange(2000, dtype=np.uint16)
    blocks = np.concatenate([train_batch(data_N, 7, step, 0, 1, 500, 8, laid_out(PARTS)) for step in range(20)])
    first, last = of_part(blocks[:, 0]), of_part(blocks[:, -1])
    assert (first == last).all()  # no block crosses from one text into the next
    drawn = np.bincount(first) / len(first)
    assert drawn == pytest.approx(PARTS.shares, abs=4 * 0.5 / 100)
    starts = [blocks[first == part, 0] for part in range(3)]
    assert [each.min() for each in starts] == pytest.approx([0, 1000, 1400], abs=5)
    assert [each.max() for each in starts] == pytest.approx([991, 1391, 1991], abs=5)
    assert (train_batch(data_N, 7, 3, 0, 1, 500, 8, laid_out(PARTS)) == blocks[1500:2000]).all()
    assert (train_batch(data_N, 8, 3, 0, 1, 500, 8, laid_out(PARTS)) != blocks[1500:2000]).any()
    places = (blocks[:, 0] - np.array([0, 1000, 1400])[first]) / np.array([992, 392, 592])[first]
    assert abs(np.corrcoef(places, first)[0, 1]) < 0.05  # where in a text does not depend on which


@pytest.mark.usefixtures("folder")
def test_a_device_draws_the_same_rows() -> None:
    tokens = prepare(Text(MIX))
    configs = [Study("s", MIX, base=TINY, seeds=(seed,)).expand(tokens.facts)[0] for seed in (1, 2)]
    stacked = stack([initial_state(config) for config in configs], torch.device("cpu"))
    texts = DeviceTokens(tokens, torch.device("cpu"))
    stepper = Stepper(stacked, texts.train_N, Ranks(), texts.layouts[0])
    stepper.fill_tables()
    starts_RKxExB = stepper._starts_RKxExB  # pyright: ignore[reportPrivateUsage]
    for e, step in itertools.product(range(2), (0, 5)):
        blocks = train_batch(tokens.train_N, configs[e].seed, step, 0, 1, 4, 8, tokens.layouts[0])
        starts = starts_RKxExB[step, e].numpy()
        assert (tokens.train_N[starts[:, None] + np.arange(9)] == blocks).all()


@given(
    st.lists(st.integers(9, 3000), min_size=2, max_size=4),
    st.lists(st.integers(1, 20), min_size=4, max_size=4),
    st.integers(1, 8),
    st.none() | st.integers(1, 3000),
)
def test_windows_of_a_mixture_are_in_its_shares(
    lengths: list[int], weights: list[int], block: int, at_most: int | None
) -> None:
    weights = weights[: len(lengths)]
    parts = Parts(tuple(lengths), tuple(weight / sum(weights) for weight in weights))
    starts = exact_eval_starts(laid_out(parts), block, at_most)
    part, counts = of_part(starts, parts), np.bincount(of_part(starts, parts), minlength=len(lengths))
    assert (part == of_part(starts + block, parts)).all() and (np.diff(starts) >= block).all()
    total = len(starts)
    assert all(abs(count - total * share) <= 1 for count, share in zip(counts, parts.shares, strict=True))
    assert total >= 1 and total * block <= max(at_most or sum(lengths), len(lengths) * block)
    whole = exact_eval_starts(laid_out(parts), block)
    assert total == len(whole) or at_most is not None
    unbounded = exact_eval_starts(laid_out(parts), block, max(1, parts.usable - 1))
    assert (unbounded == whole).all()  # so that eval_val_tokens of all of it is the same run as 0


def test_random_windows_of_a_mixture_are_in_its_shares_too() -> None:
    starts = sampled_eval_starts(1, 0, 1, 4000, laid_out(PARTS), 8)
    assert (of_part(starts) == of_part(starts + 8)).all()
    assert np.bincount(of_part(starts)) / 4000 == pytest.approx(PARTS.shares, abs=0.04)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["char", "bpe:258"])
def test_bits_per_byte_of_a_mixture_are_those_of_the_windows_that_are_scored(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tokens = prepare(Text(MIX), name)
    costs_V = torch.from_numpy(tokens.tokenizer.bytes_of_tokens() * log(256)).double()  # eight bits for each byte
    monkeypatch.setattr(evaluate.gpt, "loss", lambda _, __, blocks, *___: costs_V[blocks[..., 1:]].mean((1, 2)))
    [config] = Study("s", MIX, name, base={**TINY, "eval_val_tokens": 0}).expand(tokens.facts)
    stacked = stack([initial_state(config)], torch.device("cpu"))
    [of] = evaluate.evaluate(stacked, DeviceTokens(tokens, torch.device("cpu")), Ranks()) or []
    assert of.val_bpb == pytest.approx(8, rel=1e-6)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("mode", ["exact", "sampled"])
def test_both_splits_of_a_mixture_are_evaluated_in_its_shares(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """A loss of 1 for each character that one text alone has: 11 of 13 there. A fifth of all text is its."""
    tokens = prepare(Text(Mixture(("a.txt", "b.txt"), (0.25, 0.75))))
    costs_V = torch.tensor([float(character in "ÄÖÜANDTHEN\n") for character in tokens.tokenizer.characters])
    monkeypatch.setattr(evaluate.gpt, "loss", lambda _, __, blocks, *___: costs_V[blocks[..., 1:]].mean((1, 2)))
    settings = {**TINY, "eval": mode, "eval_iters": 40, "eval_train_tokens": 800, "eval_val_tokens": 0}
    [config] = Study("s", "x", base=settings).expand(tokens.facts)
    stacked = stack([initial_state(config)], torch.device("cpu"))
    [of] = evaluate.evaluate(stacked, DeviceTokens(tokens, torch.device("cpu")), Ranks()) or []
    assert (of.train_loss, of.val_loss) == pytest.approx((0.75 * 11 / 13,) * 2, abs=0.12)


def test_a_mixture_is_trained_stopped_continued_and_stacked_to_the_same_bits(folder: Path) -> None:
    study = Study("s", MIX, base=TINY, seeds=(1, 2))
    asked = itertools.count()
    with pytest.raises(Interrupted):
        run_study(study, "stopped", OPTIONS, executor=Inline(), should_stop=lambda: next(asked) > 9)
    resumed, whole = (run_study(study, out, OPTIONS, executor=Inline()) for out in ("stopped", "whole"))
    stacked = run_study(study, "stacked", replace(OPTIONS, stack=2), executor=Inline())
    for run in map(run_id, whole.configs):
        losses = whole.metrics(run)["loss"].to_list()
        assert resumed.metrics(run)["loss"].to_list() == losses and len({*losses}) == 8
        assert stacked.metrics(run)["loss"].to_list() == pytest.approx(losses, rel=1e-6)
    opened = load_study(folder / "whole")
    assert [*map(run_id, opened.configs)] == [*map(run_id, whole.configs)] and opened.facts == whole.facts
    table = opened.summary()
    drawn, lengths = [0.75 * 256, 0.25 * 256], (1800, 585)
    assert table["unique_tokens"].to_list() == [256] * 2
    assert table["epochs"].to_list() == pytest.approx([max(d / n for d, n in zip(drawn, lengths, strict=True))] * 2)
    said = " ".join(method_chapter(take_snapshot(whole)).details)
    mixture = (
        "The corpus is a mixture: each row of a batch is drawn from one of its texts, 75 % a.txt and 25 % b.txt, SHA"
    )
    assert (
        mixture in said
        and "The first 90 % of each, 2,385 tokens in all, is for training. Of the rest 260 tokens" in said
    )
    (folder / "b.txt").write_text("ÄÖÜ AND WHEN\n" * 50)
    with pytest.raises(ConfigError, match=r"the text '0\.75 a\.txt \+ 0\.25 b\.txt', or what of it"):
        run_study(study, "whole", OPTIONS, executor=Inline())


@pytest.mark.usefixtures("folder")
def test_a_mixture_counts_repeats_of_the_text_that_is_repeated_most() -> None:
    text = Text(Mixture(("a.txt", "b.txt"), (0.5, 0.5)))
    [config] = Study("s", text.corpus, base={**TINY, "max_iters": 100}).expand(facts := corpus_facts(text, "char"))
    assert epochs(config, facts) == pytest.approx(1600 / 585, rel=1e-3)
    assert unique_tokens(config, facts) == 1600 + 585
    assert dataset_of(config).corpus == "0.5 a.txt + 0.5 b.txt"
    with pytest.raises(CorpusError, match=r"val split of a text of '0\.5 a\.txt .* has 65 tokens, block_size=65 needs"):
        check_length(config.model_copy(update={"block_size": 65}), facts)
    check_length(config.model_copy(update={"block_size": 64}), facts)


def test_mixtures_as_levels_are_compared_on_one_text(folder: Path) -> None:
    levels = "[a.txt, {mix: {a.txt: 0.75, b.txt: 0.25}}, {mix: {a.txt: 0.25, b.txt: 0.75}}]"
    lines = f"base: {json.dumps(TINY)}\nfactors: {{corpus: {levels}}}\nval_corpus: c.txt\ntokenizer: byte\n"
    study = parse_study(f"name: s\n{lines}", "s.yaml")
    results = run_study(study, "out", OPTIONS, executor=Inline())
    table = results.summary()
    assert table["corpus"].to_list() == ["a.txt", "0.75 a.txt + 0.25 b.txt", "0.25 a.txt + 0.75 b.txt"]
    assert table["status"].to_list() == ["done"] * 3 and table["best_val_loss"].n_unique() == 3
    assert take_snapshot(results).loss_unit == "nats per token"
    assert {*load_study(folder / "out").summary()["run_id"]} == {*table["run_id"]}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["char", "byte", "bpe:260"])
def test_documents_of_a_mixture_are_kept_apart_in_each_of_its_texts(name: str) -> None:
    for path, words in (("d.txt", "one two three four five six"), ("e.txt", "ein zwei drei vier fünf sechs sieben")):
        Path(path).write_text("".join(f"{word * n}." for n in range(1, 9) for word in words.split()))
    mixed = Mixture(("d.txt", "e.txt"), (0.75, 0.25))
    tokens, plain = prepare(Text(mixed, document_separator="."), name), prepare(Text(mixed), name)
    assert tokens.train_parts is not None and tokens.train_parts.shares == mixed.shares
    for layout, data_N in zip(tokens.layouts, (tokens.train_N, tokens.val_N), strict=True):
        assert layout.parts is not None and {*np.cumsum(layout.parts.lengths)} <= {*layout.ends_D.tolist()}
        spelled = [tokens.tokenizer.to_bytes(of) for of in np.split(data_N, layout.ends_D[:-1])]
        assert all(b"." not in of[:-1] for of in spelled) and sum(of.endswith(b".") for of in spelled) > 4
        assert len(layout.texts) == 2 and [int(of[-1]) for of in layout.texts] == [*layout.parts.lengths]
        starts = exact_eval_starts(layout, 4)
        assert (
            np.searchsorted(layout.ends_D, starts, "right") == np.searchsorted(layout.ends_D, starts + 4, "right")
        ).all()
    blocks = train_batch(tokens.train_N, 1, 0, 0, 1, 400, 4, tokens.layouts[0])
    assert not (blocks[:, :-1] == tokens.tokenizer.encode(".")[0]).any() or name.startswith("bpe")
    assert open_tokens(tokens.folder).facts == replace(tokens.facts) and tokens.facts.documents is not None
    assert [sum(each.values()) for each in tokens.facts.documents[0]] == [len(of) for of in tokens.layouts[0].texts]
    assert corpus_facts(Text(mixed, document_separator="."), name).documents == tokens.facts.documents
    assert tokens.sha256 != plain.sha256
