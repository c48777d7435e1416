"""Exported runs in other programs' hands: the same logits, and the same next step."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from isoloss.data.batches import train_batch
from isoloss.data.token_files import Tokens
from isoloss.data.tokenizer import Tokenizer
from isoloss.errors import ConfigError, NumericsError, StoreError
from isoloss.execution.export import export_run, gpt2_config, nanogpt_checkpoint, nanogpt_dataset
from isoloss.files import write_record
from isoloss.model import gpt
from isoloss.model.functions import Kernels
from isoloss.model.interop import nanogpt_order
from isoloss.model.parameters import Parameters, init_flat, layout_of
from isoloss.store.layout import RunPaths, StudyPaths
from isoloss.store.tables import StudyResults
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.schedules import learning_rate
from isoloss.study.study import Study
from isoloss.training.checkpoint import save_last
from isoloss.training.optimizers import adamw
from isoloss.training.optimizers.update import Update
from isoloss.training.state import MemberState, Progress, stack
from tests.recording import recorded
from tests.reference import ReferenceGPT, reference_rate

TOLERANCE = 1e-4
LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}
SHAPES = [{"bias": False}, {"bias": True, "n_layer": 3, "n_head": 4}]
Make = Callable[..., RunConfig]


def trained(config: RunConfig) -> MemberState:
    """A state in the middle of training: no bias is 0, no norm 1, no moment empty, and one step was skipped."""
    draw = torch.Generator().manual_seed(0)
    initial_P = init_flat(config)
    noise_3xP = torch.randn(3, len(initial_P), generator=draw)
    progress = Progress(step=12, updates=11, evaluated_step=12, best_val_loss=1.5, best_step=12)
    moments = {"exp_avg": 0.1 * noise_3xP[1], "exp_avg_sq": noise_3xP[2] ** 2}
    return MemberState(config, progress, initial_P + 0.2 * noise_3xP[0], moments)


def logits_of(state: MemberState, tokens_BxT: Tensor) -> Tensor:
    parameters = Parameters(layout_of(state.config), state.flat_P[None], Kernels(torch.float32))
    with torch.no_grad():
        return gpt.logits(parameters, [state.config], tokens_BxT[None])[0]


def some_tokens(config: RunConfig) -> Tensor:
    return torch.randint(config.vocab_size, (3, config.block_size), generator=torch.Generator().manual_seed(1))


def resumed(config: RunConfig, saved: dict[str, Any]) -> tuple[ReferenceGPT, torch.optim.AdamW]:
    """A plain model and its optimizer as nanoGPT takes them up."""
    model = ReferenceGPT(config)
    model.load_state_dict(saved["model"], strict=False)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    # All hyperparameters are wrong here, so that they must come from the checkpoint.
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 9.0}, {"params": others}], lr=9.0)
    optimizer.load_state_dict(saved["optimizer"])
    return model, optimizer


@pytest.fixture
def stored(tokens: Tokens, tmp_path: Path) -> Callable[[MemberState], tuple[StudyResults, RunPaths]]:
    """Puts a state into a study directory."""

    def store(state: MemberState) -> tuple[StudyResults, RunPaths]:
        results = StudyResults(StudyPaths(tmp_path / "study"), Study("words", "words"), tokens.facts)
        run = results.paths.run(run_id(state.config))
        run.folder.mkdir(parents=True)
        sizes = {"vocab_size": state.config.vocab_size, "train_tokens": 900, "val_tokens": 100}
        text = {"corpus": "words", "corpus_sha256": tokens.sha256}
        write_record(results.paths.tokenizer, {**tokens.tokenizer.as_dict(), **text, **sizes})
        save_last(run.folder, state)
        return results, run

    return store


Stored = Callable[[MemberState], tuple[StudyResults, RunPaths]]


OF_LLAMA = [LLAMA, {**LLAMA, "n_head": 4, "n_kv_head": 2, "tie_embeddings": False}]


@pytest.mark.parametrize("shape", [*SHAPES, {"tie_embeddings": False}, *OF_LLAMA])
def test_transformers_computes_our_logits(make: Make, stored: Stored, tmp_path: Path, shape: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM  # slow to import, and needed here alone

    state = trained(make(**shape))
    export_run(*stored(state), "hf", tmp_path / "model")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    model, told = loaded
    assert isinstance(model, LlamaForCausalLM) == ("norm" in shape)
    assert not any(told.values()), "keys missing, unexpected or of another shape"
    tokens_BxT = some_tokens(state.config)
    with torch.no_grad():
        found = model(tokens_BxT).logits
    torch.testing.assert_close(found, logits_of(state, tokens_BxT), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
def test_nanogpt_computes_our_logits(make: Make, stored: Stored, tmp_path: Path, shape: dict[str, Any]) -> None:
    state = trained(make(**shape))
    export_run(*stored(state), "nanogpt", tmp_path / "ckpt.pt")
    saved = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    assert saved["model"]["lm_head.weight"].data_ptr() == saved["model"]["transformer.wte.weight"].data_ptr()
    model = ReferenceGPT(state.config)
    unmatched = model.load_state_dict(saved["model"], strict=False)
    assert (unmatched.missing_keys, unmatched.unexpected_keys) == ([], ["lm_head.weight"])
    tokens_BxT = some_tokens(state.config)
    with torch.no_grad():
        found = model(tokens_BxT)
    torch.testing.assert_close(found, logits_of(state, tokens_BxT), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_optimizer_goes_on_as_ours_would(make: Make, shape: dict[str, Any]) -> None:
    config = make(**shape, weight_decay=0.3, beta1=0.8, learning_rate=0.01)
    state = trained(config)
    saved = nanogpt_checkpoint(state)
    grad_P = torch.randn(len(state.flat_P), generator=torch.Generator().manual_seed(2))

    model, optimizer = resumed(config, saved)
    gradients = layout_of(config).split(grad_P)
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name.removeprefix("transformer.")].clone()
    optimizer.step()

    stacked = stack([state], torch.device("cpu"))
    rate_1, one_1 = torch.tensor([learning_rate(config, state.progress.step)]), torch.ones(1)
    factors = stacked.counts_Ex2, rate_1, one_1, torch.zeros(1), torch.tensor([config.weight_decay])
    adamw.step(Update(stacked.members, stacked.parameters, grad_P[None], stacked.moments, *factors))
    weights = layout_of(config).split(stacked.parameters.flat_ExP[0])
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name.removeprefix("transformer.")], msg=name)


@pytest.mark.parametrize("bias", [False, True])
def test_training_resumes_elsewhere_with_the_losses_it_has_here(make: Make, tokens: Tokens, bias: bool) -> None:
    config = make(bias=bias, learning_rate=0.01, grad_clip=0.1)
    [recording] = recorded([config], tokens)
    [state] = [state for state in recording.kept if state.progress.step == 10]
    saved = nanogpt_checkpoint(state)

    model, optimizer = resumed(config, saved)
    losses: list[float] = []
    for step in range(saved["iter_num"], config.max_iters):
        for group in optimizer.param_groups:
            group["lr"] = reference_rate(config, step)
        batch = train_batch(tokens.train_N, config.seed, step, 0, 1, config.batch_size, config.block_size)
        block = torch.from_numpy(batch)
        loss = F.cross_entropy(model(block[:, :-1]).flatten(0, 1), block[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx([row.loss for row in recording.steps[10:]], rel=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_nanogpt_order_is_that_of_its_modules(make: Make, bias: bool) -> None:
    config = make(bias=bias)
    expected = [name.removeprefix("transformer.") for name, _ in ReferenceGPT(config).named_parameters()]
    assert nanogpt_order(config) == expected


def test_a_nanogpt_checkpoint_tells_where_training_stood(make: Make) -> None:
    state = trained(make(dropout=0.1, precision="bf16"))
    saved = nanogpt_checkpoint(state)
    assert (saved["iter_num"], saved["best_val_loss"]) == (12, 1.5)
    assert saved["optimizer"]["state"][0]["step"] == 11
    assert {name: saved["model_args"][name] for name in ("n_embd", "dropout", "bias")} == {
        "n_embd": 16,
        "dropout": 0.1,
        "bias": False,
    }
    assert (saved["config"]["lr_decay_iters"], saved["config"]["dtype"]) == (20, "bfloat16")
    unevaluated = replace(state, progress=replace(state.progress, best_val_loss=None))
    assert nanogpt_checkpoint(unevaluated)["best_val_loss"] == inf


@pytest.mark.parametrize(
    ("corpus", "tokenizer", "dataset"),
    [
        ("tinyshakespeare", "char", "shakespeare_char"),
        ("tinyshakespeare", "byte", "tinyshakespeare_byte"),
        ("texts/my poems.txt", "char", "my poems_char"),
    ],
)
def test_a_text_is_a_folder_of_nanogpts_data(make: Make, corpus: str, tokenizer: str, dataset: str) -> None:
    assert nanogpt_dataset(make(corpus=corpus, tokenizer=tokenizer)) == dataset


def test_a_folder_for_transformers_carries_the_vocabulary(make: Make, stored: Stored, tmp_path: Path) -> None:
    state = trained(make(dropout=0.1))
    results, run = stored(state)
    export_run(results, run, "hf", tmp_path / "new" / "model", "last")
    names = sorted(path.name for path in (tmp_path / "new" / "model").iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    with safe_open(tmp_path / "new" / "model" / "model.safetensors", "pt") as weights:
        assert weights.metadata() == {"format": "pt"}, "older transformers insist"
    told = gpt2_config(state.config)
    assert [told[f"{place}_pdrop"] for place in ("embd", "attn", "resid")] == [0.1, 0.1, 0.1]


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_transformers_reads_and_writes_text_with_our_vocabulary(
    make: Make, stored: Stored, tmp_path: Path, kind: Any
) -> None:
    from transformers import AutoTokenizer, pipeline

    results, run = stored(trained(make(vocab_size=256 if kind == "byte" else make().vocab_size, tokenizer=kind)))
    record = {k: v for k, v in results.tokenizer().items() if k != "digest"}
    ours = Tokenizer("byte") if kind == "byte" else Tokenizer("char", record["characters"])
    write_record(results.paths.tokenizer, {**record, **ours.as_dict()})
    export_run(results, run, "hf", tmp_path / "model", "last")
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    letters = "".join(map(chr, range(1, 0x300)))
    text = "".join(reversed(ours.characters)) + " " * 3 if kind == "char" else letters
    encoded = theirs(text)["input_ids"]
    assert encoded == ours.encode(text).tolist() and theirs.decode(encoded) == text
    writer: Any = pipeline("text-generation", model=str(tmp_path / "model"))
    prompt = text[:4]
    (written,) = writer(prompt, max_new_tokens=5, do_sample=False)
    assert written["generated_text"].startswith(prompt) and len(written["generated_text"]) > 4


def test_nanogpts_sampling_finds_the_vocabulary(make: Make, stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "nanoGPT/out").mkdir(parents=True)
    (tmp_path / "nanoGPT/sample.py").write_text("")
    state = trained(make(corpus="texts/words.txt"))
    results, run = stored(state)
    for out, root in (("nanoGPT/out/ckpt.pt", "nanoGPT"), ("ckpt.pt", ".")):
        export_run(results, run, "nanogpt", tmp_path / out, "last")
        saved = torch.load(tmp_path / out, weights_only=True)
        meta = pickle.loads((tmp_path / root / "data" / saved["config"]["dataset"] / "meta.pkl").read_bytes())
        encoded = [meta["stoi"][c] for c in results.tokenizer()["characters"]]  # as sample.py encodes and decodes
        assert encoded == list(range(state.config.vocab_size)) == list(range(meta["vocab_size"]))
        assert "".join(meta["itos"][i] for i in encoded) == results.tokenizer()["characters"]


@pytest.mark.parametrize(
    ("target", "settings", "said"),
    [
        ("nanogpt", {"tie_embeddings": False, "window": 4}, "nanoGPT has no model with window=4, tie_embeddings=False"),
        ("nanogpt", LLAMA, "nanoGPT has no model with norm=rmsnorm, position=rope, mlp=swiglu"),
        ("hf", {"mlp": "relu2"}, "GPT-2 has no model with mlp=relu2"),
        ("hf", {**LLAMA, "bias": True}, "GPT-2 has no model with norm=rmsnorm, position=rope, mlp=swiglu"),
        ("hf", {**LLAMA, "qk_norm": True}, "qk_norm=True"),
        ("hf", {"n_kv_head": 1}, "n_kv_head=1"),
    ],
)
def test_what_a_target_cannot_hold_is_refused_by_its_name(
    make: Make, stored: Stored, tmp_path: Path, target: Literal["nanogpt", "hf"], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        export_run(*stored(trained(make(**settings))), target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refusals_say_what_is_wrong(make: Make, stored: Stored, tmp_path: Path) -> None:
    results, run = stored(trained(make()))
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="is a folder; nanoGPT reads one file"):
        export_run(results, run, "nanogpt", tmp_path)
    with pytest.raises(ConfigError, match="is a file; transformers reads a folder"):
        export_run(results, run, "hf", file)
    with pytest.raises(StoreError, match="cannot write"):
        export_run(results, run, "nanogpt", file / "ckpt.pt")
    with pytest.raises(StoreError, match="has no best checkpoint"):
        export_run(results, results.paths.run("untrained"), "nanogpt", tmp_path / "ckpt.pt")
    (run.folder / "best.safetensors").write_bytes(b"half")
    with pytest.raises(NumericsError, match="damaged"):
        export_run(results, run, "nanogpt", tmp_path / "ckpt.pt")
    (run.folder / "best.safetensors").unlink()
    with pytest.raises(StoreError, match=r"cannot read .*best\.safetensors: No such file"):
        export_run(results, run, "nanogpt", tmp_path / "ckpt.pt")
    assert file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "study"]
