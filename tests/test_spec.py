"""What is trained: configurations, studies, identities, costs, and the complaints about bad ones."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoloss.design.audit import audit
from isoloss.errors import ConfigError, ConfigErrors
from isoloss.model.parameters import layout_of
from isoloss.study import compute
from isoloss.study.config import SETTINGS, RunConfig, make_config
from isoloss.study.hypotheses import RESPONSES, ExponentStated, Hypothesis, RatioStated, SpikesStated
from isoloss.study.identity import ADDED_SETTINGS, by_run_id, canonical, run_id
from isoloss.study.stacking import shape_key
from isoloss.study.stated_hypotheses import make_hypothesis
from isoloss.study.study import Study
from isoloss.study.studyfile import KEYS, builtin_studies, dump_study, find_study, parse_study
from isoloss.study.synonyms import SYNONYMS, did_you_mean
from isoloss.study.texts import DataFacts

SHAKESPEARE = DataFacts("86c4", 65, 111_540)
TEXT = {"corpus": "x", "corpus_sha256": "86c4", "vocab_size": 65}


def config(**settings: object) -> RunConfig:
    return make_config({**TEXT, **settings})


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_study(text, "s.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_group1_is_the_published_grid() -> None:
    configs = find_study("group1").expand(SHAKESPEARE)
    assert len(configs) == 32
    assert {(c.n_layer, c.block_size, c.learning_rate, c.min_lr, c.beta2, c.seed) for c in configs} == {
        (4, 64, 1e-3, 1e-4, 0.99, 1337)
    }
    assert {(c.n_head, c.n_embd, c.batch_size, c.max_iters, c.dropout) for c in configs} == {
        (h, e, b, m, d) for h in (4, 8) for e in (128, 256) for b in (8, 16) for m in (1000, 2000) for d in (0.1, 0.2)
    }
    assert sum(compute.train_flops(c) for c in configs) == pytest.approx(460e12, rel=0.005)


def test_builtin_studies_are_valid_and_named_like_their_files() -> None:
    assert [find_study(name).name for name in builtin_studies()] == [
        "context",
        "depth",
        "group1",
        "horizons",
        "isoflop",
        "known-floor",
        "ladder",
        "quickstart",
        "transfer",
    ]


def test_contexts_differ_in_nothing_but_their_length() -> None:
    configs = find_study("context").expand(SHAKESPEARE)
    assert {config.block_size for config in configs} == {64, 256, 1024} and len(configs) == 15
    assert len({compute.params_total(config) for config in configs}) == 1
    assert {compute.tokens_per_step(config) for config in configs} == {4096}
    assert len({config.eval_scored for config in configs}) == 1, "so the same targets count"


def test_depths_have_equal_parameters_as_nearly_as_a_width_allows() -> None:
    configs = find_study("depth").expand(SHAKESPEARE)
    assert {config.n_layer: config.n_embd for config in configs} == {2: 128, 4: 90, 6: 74, 12: 52}
    sizes = [compute.params_non_embedding(config) for config in configs]
    assert len(sizes) == 16 and (min(sizes), max(sizes)) == (389_610, 395_234) and max(sizes) / min(sizes) < 1.015


@pytest.mark.parametrize(("n_embd", "without_position"), [(128, 795_904), (256, 3_164_672)])
def test_parameter_counts_are_nanogpts(n_embd: int, without_position: int) -> None:
    built = config(n_embd=n_embd)
    assert compute.params_without_position(built) == without_position
    assert compute.params_total(built) == without_position + 64 * n_embd
    assert compute.params_non_embedding(built) == without_position - 65 * n_embd
    assert compute.params_approx(built) == 12 * 4 * n_embd**2
    assert compute.flops_per_token(built) == 6 * without_position + 12 * 4 * n_embd * 64


@pytest.mark.parametrize("bias", [False, True])
def test_counted_parameters_are_the_models(bias: bool) -> None:
    built = config(n_layer=3, n_embd=24, bias=bias)
    assert sum(prod(slot.shape) for slot in layout_of(built).slots) == compute.params_total(built)


def test_evaluation_happens_at_the_start_every_interval_and_the_end() -> None:
    assert compute.evaluation_steps(config(max_iters=500, eval_interval=200)) == [0, 200, 400, 500]
    assert compute.evaluation_steps(config(max_iters=400, eval_interval=200)) == [0, 200, 400]
    assert [compute.evaluations(config(max_iters=n, eval_interval=200)) for n in (400, 500)] == [3, 4]


def test_identity_is_science_alone() -> None:
    base = config()
    assert run_id(base) == run_id(config(lr_decay_iters=2000)) == run_id(config(eval_iters=7))
    assert run_id(base) == run_id(base.model_copy(update={"corpus": "elsewhere.txt"}))
    changed = [config(seed=1), config(dropout=0.1), config(precision="bf16"), config(n_head=8), config(eval="sampled")]
    changed += [base.model_copy(update={"corpus_sha256": "77aa"}), config(eval_train_tokens=64)]
    assert len({run_id(base), *map(run_id, changed)}) == len(changed) + 1


@pytest.mark.parametrize("name", ["group1", "ladder", "quickstart"])
def test_runs_that_state_no_seed_but_one_keep_the_names_they_had(name: str) -> None:
    """Their canonical form has what it had before the settings that were added since, under its own name."""
    for built in find_study(name).with_seeds(2).expand(SHAKESPEARE):
        added = ("corpus", "val_corpus", "init_seed", "data_seed", *ADDED_SETTINGS)
        named = {name: value for name, value in vars(built).items() if name not in added}
        del named["eval_iters"]  # of sampled evaluation
        assert named.pop("eval_val_tokens") == 0  # all of the split, as when this was no setting
        named |= {"isoloss": 2, "lr_decay_iters": built.decay_horizon}
        assert json.loads(canonical(built)) == named
        assert run_id(built) == run_id(built.model_copy(update={"init_seed": built.seed, "data_seed": built.seed}))


def test_a_run_is_named_by_the_seeds_that_decide_it() -> None:
    assert run_id(config(seed=7)) == run_id(config(seed=1, init_seed=7, data_seed=7))
    assert run_id(config(seed=7, init_seed=3)) == run_id(config(seed=3, data_seed=7))
    pairs = [config(init_seed=i, data_seed=d) for i in (1, 2, 3) for d in (1, 2, 3)]
    assert len({*map(run_id, pairs)}) == 9


def test_runs_that_are_named_together_have_the_names_they_have_alone() -> None:
    stated = ({}, {"dropout": 0.1}, {"init_seed": 7}, {"data_seed": 8}, {"init_seed": 7, "data_seed": 8})
    runs = [config(seed=seed, **settings) for settings in stated for seed in (7, 8, 2**63 - 1)]
    assert [*by_run_id(runs).items()] == [*{run_id(run): run for run in runs}.items()]
    assert [*by_run_id(reversed(runs))] == [*{run_id(run): run for run in reversed(runs)}]


def test_init_seed_and_data_seed_are_settings_like_others() -> None:
    study = parse_study("name: s\nbase: {init_seed: 7}\nfactors: {data_seed: [1, null]}\nseeds: [5]", "s.yaml")
    assert [(c.seed_of_weights, c.seed_of_data) for c in study.expand(SHAKESPEARE)] == [(7, 1), (7, 5)]
    assert (study.stated_seeds, study.varied_seeds) == (["init_seed", "data_seed"], ["data_seed"])
    freed = study.with_settings({"init_seed": None, "data_seed": 2})
    assert [(c.seed_of_weights, c.seed_of_data) for c in freed.expand(SHAKESPEARE)] == [(5, 2)]
    assert "init_seed=-1: Input should be greater than or equal to 0" in complaint("name: s\nbase: {init_seed: -1}")
    assert "s.yaml:3: data_seed=1.5" in complaint("name: s\nfactors:\n  data_seed: [1.5]")


def test_cells_that_differ_in_what_a_run_does_not_read_are_named() -> None:
    said = complaint("name: s\nfactors:\n  optimizer: [adamw, sgd]\n  beta2: [0.9, 0.99]")
    assert "s.yaml:4: two cells define the same run" in said and "on beta2 (beta2=0.9 and beta2=0.99)" in said
    assert "on window (window=64 and window=128)" in complaint("name: s\nfactors:\n  window: [64, 128]")


@pytest.mark.parametrize(
    "stated",
    [
        "base: {init_seed: 1, data_seed: 2}",
        "factors: {init_seed: [null, 6]}",
        "factors: {init_seed: [1], data_seed: [2]}",
    ],
)
def test_seeds_that_train_one_run_twice_are_refused(stated: str) -> None:
    assert "s.yaml:3: seeds: two of [5, 6] define the same run" in complaint(f"name: s\n{stated}\nseeds: [5, 6]")
    assert parse_study(f"name: s\n{stated}\nseeds: [5]", "s.yaml").size == max(1, stated.count("null") * 2)


def test_members_of_a_stack_may_differ_in_what_is_said() -> None:
    free = {"n_head": 8, "dropout": 0.1, "learning_rate": 1e-2, "weight_decay": 0.0, "grad_clip": 0.5, "seed": 3}
    free |= {"init_seed": 4, "data_seed": 5}
    assert shape_key(config()) == shape_key(config(**free, max_iters=10, warmup_iters=5, min_lr=0.0))
    assert shape_key(config()) != shape_key(config(batch_size=8))


STATED: list[dict[str, object]] = [
    {"says": "wide: 'good'", "kind": "effect", "factor": "n_head", "direction": "down"},
    {"says": "0.1 # wins", "kind": "effect", "factor": "weight_decay", "levels": [0, 0.1], "direction": "up"},
    {"says": "no end", "kind": "effect", "factor": "lr_decay_iters", "levels": [None, 9], "direction": "up"},
    {"says": "faster", "kind": "ratio", "factor": "n_head", "response": "mfu", "low": 1.5},
    {"says": "flat", "kind": "plateau", "by_step": 7, "tolerance": 1e-3, "share": 0.9},
    {"says": "lies", "kind": "range", "response": "mfu_a100", "low": -1, "high": 1e-9, "device": "cuda"},
    {"says": "spiky", "kind": "spikes"},
    {"says": "best", "kind": "optimum", "factor": "learning_rate", "low": 1e-4, "high": 1e-2},
    {"says": "stays", "kind": "optimum", "factor": "learning_rate", "moved_by": "n_embd", "tolerance": 0.25},
    {"says": "law", "kind": "exponent", "form": "LD", "parameter": "beta", "low": 0.2, "high": 1},
]
HYPOTHESES = [make_hypothesis(values, number) for number, values in enumerate(STATED, 1)]


@given(
    st.fixed_dictionaries(
        {
            "n_head": st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, unique=True),
            "dropout": st.lists(st.floats(0, 0.9), min_size=1, max_size=3, unique=True),
        }
    ),
    st.lists(st.integers(0, 2**62), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(HYPOTHESES), max_size=3),
)
def test_a_study_survives_its_own_file(
    factors: dict[str, list[float]], seeds: list[int], hypotheses: list[Hypothesis]
) -> None:
    study = Study(
        "any",
        "text: with #odd 'name'",
        factors={k: tuple(v) for k, v in factors.items()},
        seeds=tuple(seeds),
        hypotheses=tuple(hypotheses),
    )
    again = parse_study(dump_study(study), "dumped")
    assert again == study
    assert list(map(run_id, again.expand(SHAKESPEARE))) == list(map(run_id, study.expand(SHAKESPEARE)))


@pytest.mark.parametrize(
    "text", ["before  " + "after" * 30, ": of two", "? a", "a: b #c", "-", "a \u2028 \x85 \x07é", "1e3"]
)
def test_texts_survive_a_studys_file(text: str) -> None:
    says = make_hypothesis({"says": f"{text} so", "kind": "spikes"}, 1)
    study = Study("s", text, description=text, hypotheses=(says,))
    assert parse_study(dump_study(study), "dumped") == study


def test_replicates_keep_the_seeds_there_were() -> None:
    study = Study("s", "x", seeds=(5, 9))
    assert study.with_seeds(1).seeds == (5,)
    assert study.with_seeds(4).seeds == (5, 9, 10, 11)
    assert parse_study("name: s\nseeds: 3", "s.yaml").seeds == (1337, 1338, 1339)


def test_a_set_factor_becomes_constant() -> None:
    study = find_study("group1").with_settings({"dropout": 0.0, "n_layer": 2})
    assert study.size == 16
    assert {(c.dropout, c.n_layer) for c in study.expand(SHAKESPEARE)} == {(0.0, 2)}


@pytest.mark.parametrize("name", builtin_studies())
def test_builtin_studies_state_hypotheses_and_keep_them(name: str) -> None:
    study = find_study(name)
    assert study.hypotheses
    assert parse_study(dump_study(study), "dumped") == study
    assert study.with_settings({"n_embd": 64}).hypotheses == study.hypotheses
    assert parse_study(dump_study(study.with_settings({"n_embd": 64})), "dumped").hypotheses == study.hypotheses


def test_hypotheses_are_no_part_of_a_runs_identity() -> None:
    study = find_study("group1")
    silent = replace(study, hypotheses=())
    assert len(study.hypotheses) == 7
    assert list(map(run_id, study.expand(SHAKESPEARE))) == list(map(run_id, silent.expand(SHAKESPEARE)))


def test_defaults_of_a_hypothesis_are_written_out() -> None:
    text = dump_study(Study("s", "x", hypotheses=(SpikesStated(says="spiky", kind="spikes"),)))
    assert "times: 2.0" in text


def test_a_hypothesis_compares_the_ends_unless_it_states_levels() -> None:
    stated = RatioStated(says="faster", kind="ratio", factor="n_head", response="mfu", low=1.5)
    assert stated.between({"n_head": (1, 2, 4)}) == (1, 4)
    assert stated.model_copy(update={"levels": (2, 4)}).between({"n_head": (1, 2, 4)}) == (2, 4)
    assert stated.between({"n_head": (2,)}) is stated.between({}) is None


def test_an_exponent_belongs_to_its_form() -> None:
    assert isinstance(HYPOTHESES[-1], ExponentStated)
    with pytest.raises(ConfigError, match="hypothesis 3: form LD has no exponent alpha; it has beta"):
        make_hypothesis({**STATED[-1], "parameter": "alpha"}, 3)


EFFECT = (
    "name: s\nfactors: {n_embd: [32, 64]}\nhypotheses:\n- says: Wide is\n    good\n  kind: effect\n  factor: n_embd\n"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EFFECT, "s.yaml:4: hypothesis 1: the key 'direction' is missing"),
        (
            EFFECT + "  direction: up\n  response: best_val_los",
            "s.yaml:9: hypothesis 1: response='best_val_los': not measured of a run: did you mean 'best_val_loss'?",
        ),
        (EFFECT + "  directon: up", "s.yaml:8: hypothesis 1: unknown key 'directon': did you mean 'direction'?"),
        (EFFECT + "  direction: left", "s.yaml:8: hypothesis 1: direction='left': Input should be 'up' or 'down'"),
        (
            EFFECT + "  direction: up\n  levels: [32, 128]",
            "s.yaml:9: hypothesis 1: n_embd has no level 128; its levels",
        ),
        (EFFECT + "  direction: up\n  levels: [32, 32]", "s.yaml:9: hypothesis 1: levels: both are 32"),
        (EFFECT + "  direction: up\n  levels: [32]", "s.yaml:9: hypothesis 1: levels=[32]: "),
        (EFFECT + "  direction: {up: 1}", "s.yaml:8: hypothesis 1: direction={'up': 1}: Input should be 'up' or"),
        (
            EFFECT.replace("n_embd\n", "n_embed\n") + "  direction: up",
            "s.yaml:7: hypothesis 1: factor='n_embed': not a setting: did you mean 'n_embd'?",
        ),
        (EFFECT + "  direction: up\n- wide", "s.yaml:9: hypothesis 2: expected 'says', 'kind'"),
        (EFFECT + "  direction: up\n- says: so", "s.yaml:9: hypothesis 2: the key 'kind' is missing"),
        ("name: s\nhypotheses: wide", "s.yaml:2: hypotheses='wide': expected a list"),
        ("name: s\nhypotheses:\n- {says: abc, kind: spike}", "s.yaml:3: hypothesis 1: kind='spike': did you mean"),
        ("name: s\nhypotheses:\n- {says: '', kind: spikes}", "s.yaml:3: hypothesis 1: says='': "),
        ("name: s\nhypotheses:\n- {says: abc, kind: plateau, by_step: 1.5}", "s.yaml:3: hypothesis 1: by_step=1.5: "),
        (
            "name: s\nhypotheses:\n- says: abc\n  kind: range\n  response: mfu\n  high: 1\n  low: 2",
            "s.yaml:7: hypothesis 1: low=2.0 is not below high=1.0",
        ),
        (
            "name: s\nhypotheses:\n- {says: abc, kind: ratio, factor: n_head, response: mfu}",
            "s.yaml:3: hypothesis 1: low: state low, high or both",
        ),
    ],
)
def test_bad_hypotheses_get_one_line_with_its_place(text: str, expected: str) -> None:
    assert expected in complaint(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: s\nfactors:\n  n_embed: [128]",
            "s.yaml:3: unknown setting 'n_embed' in factors: did you mean 'n_embd'?",
        ),
        ("name: s\nbase:\n  n_head: 3", "s.yaml:3: n_embd=128 is not divisible by n_head=3"),
        ("name: s\nfactor:\n  n_head: [2]", "s.yaml:2: unknown key 'factor': did you mean 'factors'?"),
        ("name: s\nfactors:\n  n_head: []", "s.yaml:3: factor 'n_head' has no levels"),
        ("name: s\nfactors:\n  dropout: [0.1, 1.5]", "s.yaml:3: dropout=1.5: Input should be less than 1"),
        ("name: s\nbase:\n  batch_size: 0", "s.yaml:3: batch_size=0: Input should be greater than or equal to 1"),
        ("name: s\nbase:\n  learning_rate: fast", "s.yaml:3: learning_rate='fast': Input should be a valid number"),
        ("name: s\nbase:\n  n_layer: 2.5", "s.yaml:3: n_layer=2.5: "),
        ("name: s\nbase: {n_head: 4}\nfactors:\n  n_head: [2]", "'n_head' is both in base and a factor"),
        ("name: s\nfactors:\n  n_head: [4, 4]", "s.yaml:3: factor 'n_head' repeats a level"),
        ("name: s\nfactors:\n  n_head: 4", "s.yaml:3: factor 'n_head': expected a list"),
        ("name: s\nbase:\n  n_head: [4]", "s.yaml:3: n_head: expected one value"),
        ("name: s\nseeds: []", "s.yaml:2: seeds: none; give"),
        ("name: s\nseeds: [1, 1]", "s.yaml:2: seeds: some repeat"),
        ("name: s\nseeds: -3", "s.yaml:2: seeds=-3"),
        ("name: s\nseeds: [one]", "s.yaml:2: seeds: 'one' is no whole number"),
        ("name: ../s", "s.yaml:1: name='../s'"),
        ("description: nothing", "s.yaml: the key 'name' is missing"),
        (
            "name: s\ntokenizer: bpe",
            "s.yaml:2: tokenizer='bpe': no tokenizer is called so; known: char, byte, bpe:1024",
        ),
        ("name: s\n  bad: [", "s.yaml:2: not valid YAML"),
        ("name: s\nname: t", "s.yaml:2: not valid YAML"),
        ("- a list", "s.yaml: expected the keys"),
        ("name: s\nfactors: {seed: [1]}", "s.yaml:2: unknown setting 'seed' in factors: seed is stated beside base"),
        ("name: s\nseed: 3", "s.yaml:2: unknown key 'seed': did you mean 'seeds'?"),
        ("name: s\nbase: {eval: exactly}", "s.yaml:2: eval='exactly'"),
        ("name: s\nbase: {learning_rate: .nan}", "s.yaml:2: learning_rate=nan"),
    ],
)
def test_bad_studies_get_one_line_with_its_place(text: str, expected: str) -> None:
    assert expected in complaint(text)


def complaints(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        parse_study(text, "s.yaml")
    return str(caught.value).split("\n")


def test_everything_wrong_with_a_study_file_is_told_at_once_from_top_to_bottom() -> None:
    text = """name: my study
descripton: typo
base:
  lr: 1e-3
  dropout: 1.5
  n_layer: [2, 4]
factors:
  n_embd:
    - 64
    - wide
    - 100
  n_head: [8]
seeds: 2.5
hypotheses:
  - {says: Deep is good, kind: effect, factor: depth, direction: left}
  - {says: Wide is good, kind: effect, factor: n_embd, direction: up, levels: [64, 65]}
"""
    expected = [
        "1: name='my study': use up to 64 letters",
        "2: unknown key 'descripton': did you mean 'description'?",
        "4: unknown setting 'lr' in base: use learning_rate",
        "5: dropout=1.5: Input should be less than 1",
        "6: n_layer: expected one value, got list",
        "10: n_embd='wide': Input should be a valid integer",
        "11: n_embd=100 is not divisible by n_head=8",
        "13: seeds=2.5: expected a list",
        "15: hypothesis 1: factor='depth': not a setting: use n_layer",
        "15: hypothesis 1: direction='left': Input should be 'up' or 'down'",
        "16: hypothesis 2: n_embd has no level 65",
    ]
    told = complaints(text)
    assert len(told) == len(expected), told
    for line, start in zip(told, expected, strict=True):
        assert line.startswith(f"s.yaml:{start}")


@pytest.mark.parametrize(
    "text",
    [
        "name: s\nbase: {width: 96, n_head: 12}",  # n_embd is not 128 here
        "name: s\nbase: {n_embd: wide, n_head: 12}",
        "name: s\nfactors: {n_embd: [wide]}\nbase: {n_head: 12}",
        "name: s\nn_embd: 96\nbase: {n_head: 12}",
        "nam: s",  # the name is there
        "name: s\nhypotheses:\n- {says: It is so, kind: plateau, by_stp: 7}",  # and so is by_step
    ],
)
def test_one_mistake_is_one_line(text: str) -> None:
    complaint(text)


def test_a_flood_of_errors_is_cut() -> None:
    told = complaints("name: s\nbase:\n" + "\n".join(f"  k{n}: 1" for n in range(25)))
    assert len(told) == 21 and told[-1] == "... and 5 more"
    assert complaints(f"name: s\nfactors: {{n_head: {list(range(-1200, 0))}}}")[-1] == "... and at least 980 more"


def test_what_is_wrong_in_many_cells_is_told_once() -> None:
    text = "name: s\nbase: {n_embd: 100}\nfactors:\n  n_head: [4, 8]\n  dropout: [0.0, 0.1]\nseeds: 3"
    assert complaint(text).startswith("s.yaml:4: n_embd=100 is not divisible by n_head=8")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        *[(typed, "learning_rate") for typed in ("lr", "max_lr", "peak_lr", "LR")],
        *[(typed, "n_layer") for typed in ("depth", "layers", "n_layers", "num_layers")],
        *[(typed, "n_embd") for typed in ("width", "d_model", "d-model", "hidden_size")],
        *[(typed, "n_head") for typed in ("heads", "n_heads")],
        *[(typed, "block_size") for typed in ("context_length", "seq_len", "ctx")],
        *[(typed, "max_iters") for typed in ("steps", "num_steps", "epochs")],
        *[(typed, "batch_size") for typed in ("bs", "batch")],
        ("wd", "weight_decay"),
        ("warmup_steps", "warmup_iters"),
        ("max_grad_norm", "grad_clip"),
    ],
)
def test_names_of_other_programs_are_answered(typed: str, name: str) -> None:
    for section in (f"base:\n  {typed}: 1", f"factors:\n  {typed}: [1]"):
        assert re.search(f"s.yaml:3: unknown setting '{typed}' in .*: use {name}$", complaint(f"name: s\n{section}"))
    assert re.match(f"s.yaml:2: unknown key '{typed}': .*: use {name}", complaint(f"name: s\n{typed}: 1"))
    hypothesis = f"{{says: It is so, kind: effect, factor: {typed}, direction: up}}"
    assert complaint(f"name: s\nhypotheses:\n- {hypothesis}").endswith(f"use {name}")


def test_no_synonym_is_a_known_name_and_every_answer_is_one() -> None:
    known = {*SETTINGS, *KEYS, *RESPONSES}
    for name, typed in SYNONYMS.items():
        assert name in known or " " in name
        assert " " in name or not known & set(typed.split())
    every = " ".join(SYNONYMS.values()).split()
    assert len(set(every)) == len(every)


def test_a_synonym_is_found_in_anyones_table() -> None:
    assert did_you_mean("n_embd", ["dropout", "width"]) == "use width"
    assert did_you_mean("epochs", ["dropout", "width"]) == "known: dropout, width"


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("learning_rate: 0,003", "0,003 is written with a comma: write 0.003"),
        ("learning_rate: '-1,5e-3'", "write -1.5e-3"),
        ("learning_rate: 1,000", "write 1.000 or 1000"),
        ("max_iters: 2,000", "2,000 is written with a comma: write 2000"),
        ("max_iters: 10k", "10k is written with a letter: write 10000"),
        ("max_iters: 1.5 M", "write 1500000"),
        ("max_iters: 1e3", "1000.0 is written with a point or an exponent: write 1000"),
        ("max_iters: '1000'", "1000 is written in quotes: write 1000"),
        ("learning_rate: [0,003, 0,01]", "'003' begins with a zero: write 3, or 0.003 for 0,003"),
        ("dropout: 0,1, n_layer: 2", "'1' in base: write a number such as 0,1 with a point: 0.1"),
    ],
)
def test_numbers_as_people_write_them_are_recognised(setting: str, hint: str) -> None:
    base = f"{{{setting}}}" if setting.startswith("dropout") else f"\n  {setting}"
    assert re.search(f"s.yaml:[23]: .*{hint}", complaint(f"name: s\nbase: {base}"))


def test_numbers_that_yaml_reads_are_taken() -> None:
    study = parse_study("name: s\nbase: {max_iters: 1_000, learning_rate: .5e-3, min_lr: 1E-5}", "s.yaml")
    assert dict(study.base) == {"max_iters": 1000, "learning_rate": 5e-4, "min_lr": 1e-5}


def test_yaml_reads_exponents_as_numbers() -> None:
    study = parse_study("name: s\nbase: {learning_rate: 1e-3}\nfactors: {min_lr: [1e-5, 1e-4]}", "s.yaml")
    assert study.base["learning_rate"] == 1e-3
    assert study.factors["min_lr"] == (1e-5, 1e-4)


def test_an_unknown_study_is_met_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        find_study("quikstart")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "hypothesis 1: low: state low, high or both, or moved_by with tolerance"),
        ({"moved_by": "n_embd"}, "moved_by and tolerance: state both"),
        ({"low": 1e-3, "moved_by": "n_embd", "tolerance": 1}, "but not low or high with moved_by"),
        ({"moved_by": "learning_rate", "tolerance": 1}, "moved_by: it is the factor itself"),
        ({"factor": "init_seed", "low": 1}, "factor=init_seed: seeds are labels without order"),
        ({"moved_by": "data_seed", "tolerance": 1}, "moved_by=data_seed: seeds are labels without order"),
        ({"low": 1e-2, "high": 1e-3}, "low=0.01 is not below high=0.001"),
    ],
)
def test_an_optimum_is_stated_in_one_of_two_ways(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_hypothesis({"says": "best", "kind": "optimum", "factor": "learning_rate", **keys}, 1)


def test_a_hypothesis_about_some_runs_names_a_level_of_the_study() -> None:
    text = (
        "name: s\nfactors: {n_embd: [32, 64], dropout: [0.0, 0.1]}\nhypotheses:\n- says: It is so\n  kind: effect\n"
        "  factor: n_embd\n  direction: down\n  where: {dropout: LEVEL}"
    )
    study = parse_study(text.replace("LEVEL", "0.1"), "s.yaml")
    assert parse_study(dump_study(study), "again") == study and "where: {dropout: 0.1}" in dump_study(study)
    assert "s.yaml:8: hypothesis 1: where: dropout has no level 0.3" in complaint(text.replace("LEVEL", "0.3"))
    assert "not a setting: did you mean 'dropout'" in complaint(text.replace("dropout: LEVEL", "dropuot: 0.1"))
    sub = audit(study, study.expand(SHAKESPEARE))
    assert any("compares 1 run at n_embd 32 with as many at 64" in one.text for one in sub)


@pytest.mark.parametrize(
    "cells",
    [
        "runs: [{optimizer: adamw, muon_learning_rate: null}, {optimizer: muon, muon_learning_rate: 0.01}]\n"
        "factors: {n_embd: [32, 64]}",
        "factors: {n_embd: [32, 64], n_layer: [1, 2], optimizer: [adamw, lion]}\ndesign: {fraction: 1/2}",
        "factors: {optimizer: [adamw, lion]}\nbudgets: {tokens: [1e6], n_embd: [32, 64]}",
        "factors: {n_embd: [32, 64]}",
    ],
)
def test_a_part_of_any_design_is_audited(cells: str) -> None:
    hypothesis = "{says: It is so, kind: effect, factor: n_embd, direction: down, where: {optimizer: adamw}}"
    study = parse_study(f"name: s\nbase: {{n_head: 2}}\n{cells}\nhypotheses:\n- {hypothesis}", "s.yaml")
    assert audit(study, study.expand(SHAKESPEARE))


def test_the_audit_says_where_a_hypothesis_is_about_no_run() -> None:
    text = "name: s\nbase: {n_layer: 2}\nfactors: {n_embd: [32, 64]}\nhypotheses:\n- {says: It is so, kind: effect, "
    text += "factor: n_embd, direction: down, where: {n_layer: LEVEL}}"
    for level, untestable in (("2", False), ("3", True), ("true", True)):
        study = parse_study(text.replace("LEVEL", level), "s.yaml")
        told = [one.text for one in audit(study, study.expand(SHAKESPEARE)) if one.code == "hypothesis_untestable"]
        assert told == (["“It is so” can't be judged: no run has the levels that it is about."] if untestable else [])


@pytest.mark.parametrize(
    "text",
    ['budgets: {"": [1]}', 'factors: {"": 3}', 'factors: {" ": 3}', 'paired: {"": 3}', '"": 3', "factors: {1: [2]}"],
)
def test_empty_keys_are_refused_and_nothing_breaks(text: str) -> None:
    with pytest.raises(ConfigError, match=r"s\.yaml:2: "):
        parse_study(f"name: s\n{text}", "s.yaml")


@pytest.mark.parametrize("text", ["design: {fraction: 3}", "design: {random: x}", "paired: {n_embd: 3}"])
def test_a_wrong_design_is_told_once(text: str) -> None:
    complaint(f"name: s\nfactors: {{n_layer: [1, 2]}}\n{text}")


def test_settings_that_may_be_none_are_numbers_of_their_own_kind() -> None:
    base = "optimizer: muon, learning_rate: 0.001, muon_learning_rate: = learning_rate * 10, n_kv_head: = n_head / 2"
    [run] = parse_study(f"name: s\nbase: {{{base}}}", "s.yaml").expand(SHAKESPEARE)
    assert (run.muon_learning_rate, run.n_kv_head) == (0.01, 2)
    span = "factors: {muon_learning_rate: {from: 0.005, to: 0.05, scale: log}}\ndesign: {random: 8}"
    drawn = parse_study(f"name: s\nbase: {{optimizer: muon}}\n{span}", "s.yaml").expand(SHAKESPEARE)
    assert all(0.005 <= (run.muon_learning_rate or 0) <= 0.05 for run in drawn)
    assert make_config({**TEXT, "schedule": "wsd", "max_iters": 10, "warmup_iters": 1, "decay_share": 0.9})


def test_levels_that_are_no_list_are_told_by_their_section() -> None:
    assert "s.yaml:2: budgets: tokens: expected a list of levels" in complaint(
        "name: s\nbudgets: {tokens: 3, n_embd: [8]}"
    )
    assert "s.yaml:2: paired: n_embd: expected a list of levels" in complaint("name: s\npaired: {n_embd: 3}")


def test_a_misspelt_kind_of_budget_is_answered_in_its_place_and_once() -> None:
    said = complaint("name: x\nbudgets:\n  flop: [1e8]\n  n_embd: [16, 32]\n")
    assert said == "s.yaml:3: unknown key 'flop' in budgets: did you mean 'flops'?"
