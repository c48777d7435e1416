"""Sliding evaluation: blocks that overlap, of which the last tokens count, so that every block_size is scored alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoloss.data.batches import exact_eval_starts, sliding_starts, undivided
from isoloss.data.synthetic import source_named
from isoloss.data.token_files import Tokens
from isoloss.data.tokens import prepare
from isoloss.design.audit_settings import evaluated_blocks
from isoloss.errors import ConfigError
from isoloss.execution.estimate import plan_study
from isoloss.execution.options import RunOptions
from isoloss.model import gpt
from isoloss.store.true_losses import true_val_loss, windows_scored
from isoloss.study.config import RunConfig
from isoloss.study.identity import canonical, run_id
from isoloss.study.study import Study
from isoloss.study.studyfile import parse_study
from isoloss.study.texts import Text
from isoloss.training.distributed import Ranks
from isoloss.training.evaluate import DeviceTokens, Evaluated, evaluate
from isoloss.training.state import StackState, initial_state, stack

Make = Callable[..., RunConfig]
CPU = torch.device("cpu")


def stacked(*configs: RunConfig) -> StackState:
    """Untrained runs of which each prefers other tokens: at first all losses are nearly equal."""
    states = [initial_state(config) for config in configs]
    noise = torch.Generator().manual_seed(0)
    return stack([replace(s, flat_P=s.flat_P + 0.3 * torch.randn(len(s.flat_P), generator=noise)) for s in states], CPU)


def evaluated(states: StackState, tokens: Tokens) -> list[Evaluated]:
    found = evaluate(states, DeviceTokens(tokens, CPU), Ranks())
    assert found is not None
    return found


def scored_targets(length: int, block: int, stride: int, at_most: int | None) -> list[tuple[int, int]]:
    """Each target that counts, with the number of tokens its window shows before it."""
    scored = exact_eval_starts(undivided(length), stride, at_most)
    found: list[tuple[int, int]] = []
    for first, start in zip(scored, sliding_starts(scored, stride, block, undivided(length)), strict=True):
        assert start >= 0 and start + block < length, "a window with its target lies inside the split"
        assert start <= first and first + stride <= start + block, "what counts lies inside its window"
        found += [(int(target), int(target - start)) for target in range(first + 1, first + stride + 1)]
    return found


@given(st.integers(1, 40), st.integers(0, 200), st.one_of(st.none(), st.integers(1, 300)), st.data())
def test_every_block_size_scores_the_same_targets_once_each(
    stride: int, more: int, at_most: int | None, data: st.DataObject
) -> None:
    blocks = data.draw(st.lists(st.integers(stride, 4 * stride), min_size=2, max_size=3))
    length = max(blocks) + 1 + more
    counted = [scored_targets(length, block, stride, at_most) for block in blocks]
    targets = [[target for target, _ in found] for found in counted]
    assert all(each == targets[0] == sorted({*each}) for each in targets)
    if at_most is None:
        assert targets[0] == [*range(1, 1 + (length - 1) // stride * stride)]
    for block, found in zip(blocks, counted, strict=True):
        assert all(seen >= min(target, block - stride + 1) for target, seen in found)


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
@pytest.mark.parametrize(
    "settings",
    [
        {"block_size": 16, "eval_stride": 5, "eval_val_tokens": 0},
        {"block_size": 16, "eval_stride": 1, "eval_val_tokens": 30},
        {"block_size": 12, "eval_stride": 8, "eval_val_tokens": 40, "position": "rope", "n_kv_head": 1},
    ],
)
def test_losses_are_those_of_every_target_by_itself(
    make: Make, tmp_path: Path, settings: dict[str, object], tokenizer: str
) -> None:
    (tmp_path / "text.txt").write_text("Où est la forêt ? Là-bas, où naît le blé. " * 30)
    tokens = prepare(str(tmp_path / "text.txt"), tokenizer)
    known = {"eval": "sliding", "eval_train_tokens": 40, "vocab_size": tokens.tokenizer.vocab_size}
    states = stacked(*(make(**known, **settings, seed=seed) for seed in (1, 2)))
    bytes_V = tokens.tokenizer.bytes_of_tokens()
    for e, found in enumerate(evaluated(states, tokens)):
        config = states.members[e]
        alone = stack([replace(initial_state(config), flat_P=states.parameters.flat_ExP[e].clone())], CPU)
        block, stride = config.block_size, config.eval_stride or 0
        sums: list[float] = []
        for text_N, at_most in ((tokens.train_N, 40), (tokens.val_N, config.eval_val_tokens)):
            groups = (len(text_N) - 1) // stride
            kept = max(1, at_most // stride) if at_most and groups * stride > at_most else groups
            losses, n_bytes = [], 0
            for group in (i * groups // kept for i in range(kept)):
                for target in range(group * stride + 1, (group + 1) * stride + 1):
                    shown = torch.from_numpy(text_N[max(0, (group + 1) * stride - block) : target].astype(np.int64))
                    logits = gpt.logits(alone.parameters, alone.members, shown[None, None])[0, 0, -1]
                    losses.append(-torch.log_softmax(logits, 0)[int(text_N[target])].item())
                    n_bytes += int(bytes_V[text_N[target]])
            sums += [float(np.mean(losses)), float(np.sum(losses)) / log(2) / n_bytes]
        assert found.train_loss == pytest.approx(sums[0], rel=1e-5)
        assert (found.val_loss, found.val_bpb) == pytest.approx((sums[2], sums[3]), rel=1e-5)


def test_windows_over_short_documents_show_nothing_of_others(make: Make, tmp_path: Path) -> None:
    drawn, end = np.random.default_rng(0), "\n"
    texts = ["".join(drawn.choice([*"abé "], size=size)) + end for size in drawn.choice([2, 8, 30, 80], size=120)]
    (tmp_path / "text.txt").write_text("".join(texts))
    tokens = prepare(Text(str(tmp_path / "text.txt"), document_separator=end))
    known = {"eval": "sliding", "eval_stride": 4, "eval_val_tokens": 0, "eval_train_tokens": 100_000}
    known |= {"vocab_size": tokens.tokenizer.vocab_size}
    bytes_V, counted = tokens.tokenizer.bytes_of_tokens(), list[float]()
    documents = np.split(tokens.val_N, tokens.layouts[1].ends_D[:-1])
    assert all({len(each) < size for each in documents} == {True, False} for size in (5, 17, 65))
    for block in (16, 64):
        state = stacked(make(**known, block_size=block))
        found = evaluate(state, DeviceTokens(tokens, CPU), Ranks(), by_position=True)
        losses, n_bytes = list[float](), 0
        for text_N in documents:
            for target in range(1, (len(text_N) - 1) // 4 * 4 + 1):
                shown = text_N[max(0, (target + 3) // 4 * 4 - block) : target].astype(np.int64)
                logits = gpt.logits(state.parameters, state.members, torch.from_numpy(shown)[None, None])[0, 0, -1]
                losses.append(-torch.log_softmax(logits, 0)[int(text_N[target])].item())
                n_bytes += int(bytes_V[text_N[target]])
        assert found and found[0].val_loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert found[0].val_bpb == pytest.approx(np.sum(losses) / log(2) / n_bytes, rel=1e-5)
        assert found[0].val_loss_by_position is None
        counted += [n_bytes]
        losses = []
        for text_N in np.split(tokens.train_N, tokens.layouts[0].ends_D[:-1]):
            for target in range(1, (len(text_N) - 1) // 4 * 4 + 1) if len(text_N) > block else ():  # what is trained on
                shown = text_N[max(0, (target + 3) // 4 * 4 - block) : target].astype(np.int64)
                logits = gpt.logits(state.parameters, state.members, torch.from_numpy(shown)[None, None])[0, 0, -1]
                losses.append(-torch.log_softmax(logits, 0)[int(text_N[target])].item())
        assert found[0].train_loss == pytest.approx(np.mean(losses), rel=1e-5)
        for split, layout in enumerate(tokens.layouts):
            longer = 0 if split else block
            read = sum((length - 1) // 4 for length in layout.lengths_D if length > longer)
            assert evaluated_blocks(state.members[0], tokens.facts, split) == read > 0
    assert counted[0] == counted[1]


def test_losses_by_position_are_recorded_where_documents_are_longer_than_windows(make: Make, tmp_path: Path) -> None:
    texts = ["a" * size + "\n" for size in (30, 3, 25, 4, 40, 3, 35, 2, 30)]
    (tmp_path / "text.txt").write_text("".join(texts))
    tokens = prepare(Text(str(tmp_path / "text.txt"), val_share=0.5, document_separator="\n"))
    for block, told in ((16, True), (40, False)):  # those of up to four tokens are not read
        state = stacked(make(block_size=block, eval="sliding", eval_stride=4, vocab_size=2, eval_val_tokens=0))
        if not told:
            tokens = replace(tokens, train_N=np.zeros(50, "<u2"), documents=(np.array([50]), tokens.layouts[1].ends_D))
        found = evaluate(state, DeviceTokens(tokens, CPU), Ranks(), by_position=True)
        assert found and (found[0].val_loss_by_position is not None) == told


def test_two_block_sizes_score_the_same_bytes(make: Make, tmp_path: Path) -> None:
    """The number of bytes follows from a loss in nats a token and in bits a byte."""
    rng = np.random.default_rng(0)
    (tmp_path / "text.txt").write_text("".join(rng.choice([*"aé€"], size=9000)))
    tokens = prepare(str(tmp_path / "text.txt"))
    n_bytes: list[float] = []
    for block in (16, 32):
        known = {"vocab_size": 3, "eval": "sliding", "eval_stride": 8, "eval_val_tokens": 256}
        [found] = evaluated(stacked(make(**known, block_size=block)), tokens)
        n_bytes.append(found.val_loss * 256 / log(2) / found.val_bpb)
    counted = sum(len(tokens.tokenizer.decode(tokens.val_N[[t]]).encode()) for t, _ in scored_targets(900, 16, 8, 256))
    assert n_bytes == pytest.approx([counted, counted], rel=1e-9)


def test_windows_that_do_not_overlap_are_the_exact_ones_to_the_bit(make: Make, tokens: Tokens) -> None:
    settings = ({}, {"eval": "sliding", "eval_stride": 16}, {"eval": "sliding", "eval_stride": 4})
    losses = [evaluated(stacked(make(eval_val_tokens=256, **each)), tokens)[0].val_loss for each in settings]
    assert losses[0] == losses[1] != losses[2]


def test_a_run_is_named_by_its_stride_where_windows_overlap(make: Make) -> None:
    exact, sliding = make(), make(eval="sliding", eval_stride=16)
    assert run_id(exact) == run_id(sliding) and windows_scored(exact) == windows_scored(sliding)
    others = [make(eval="sliding", eval_stride=stride) for stride in (4, 8)]
    assert len({run_id(exact), *map(run_id, others)}) == 3
    assert "eval_stride" not in canonical(exact) and '"eval_stride":8' in canonical(others[1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("eval: sliding", "eval=sliding needs eval_stride, the tokens from one block to the next, at most block_size"),
        ("eval: sliding, eval_stride: 0", "eval_stride=0: Input should be greater than or equal to 1"),
        ("eval: sliding, eval_stride: 65", "eval_stride=65 is more than block_size=64, so that tokens between two "),
        ("eval_stride: 16", "eval_stride=16 is of eval: sliding alone, and this is eval=exact; leave eval_stride out"),
        ("eval: sampled, eval_stride: 16", "eval_stride=16 is of eval: sliding alone, and this is eval=sampled; "),
    ],
)
def test_a_stride_that_cannot_be_is_told_in_one_line(settings: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_study(f"name: s\nbase: {{{settings}}}\n", "s.yaml")
    assert str(raised.value).startswith("s.yaml:2: ") and said in str(raised.value) and "\n" not in str(raised.value)


def test_the_true_loss_is_that_of_the_targets_that_count() -> None:
    stated = "synthetic:markov,order=2,symbols=8,seed=3,tokens=20000"
    study = Study("s", stated, base={"block_size": 6, "eval": "sliding", "eval_stride": 2, "eval_val_tokens": 60})
    tokens = prepare(study.text)
    [config] = study.expand(tokens.facts)
    source, symbols = source_named(stated), [int(c) for c in tokens.tokenizer.decode(np.asarray(tokens.val_N))]
    groups = (len(symbols) - 1) // 2
    losses: list[float] = []
    for group in (i * groups // 30 for i in range(30)):
        for target in (2 * group + 1, 2 * group + 2):
            shown = symbols[max(0, 2 * group + 2 - 6) : target + 1]
            losses.append(float(source.losses(np.array([shown]))[0, -1]))
    assert true_val_loss(source, tokens, config) == pytest.approx(np.mean(losses), rel=1e-12)
    assert windows_scored(config) == "block_size 6, eval_val_tokens 60, eval_stride 2"


def test_a_plan_counts_every_block_that_is_read(text_file: Path) -> None:
    """Half the stride, twice the blocks."""
    base = {"n_layer": 1, "n_embd": 8, "n_head": 1, "block_size": 32, "max_iters": 4, "eval_interval": 4}
    spent: list[float] = []
    for settings in ({}, {"eval": "sliding", "eval_stride": 8}):
        study = Study("s", str(text_file), base={**base, **settings})
        plan = plan_study(study, RunOptions("cpu", compile="off"))
        spent.append(plan.eta.eval_s / next(iter(plan.step_times_s.values())))
    assert spent[1] == pytest.approx(4 * spent[0], rel=0.01)  # but for the ends of the splits


def test_runs_of_two_strides_are_not_stacked(make: Make) -> None:
    with pytest.raises(ValueError):
        stacked(make(eval="sliding", eval_stride=4), make(eval="sliding", eval_stride=8))
