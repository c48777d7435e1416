"""The command line as a person meets it: the contract's verbs, outputs, exit codes and complaints."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoloss import __version__
from isoloss.cli import run as cli_run
from isoloss.cli import run_command_line
from isoloss.execution import display
from isoloss.execution.recorder import Event
from isoloss.execution.study import RunOptions
from isoloss.execution.time_left import Pace, time_left_s
from isoloss.study.config import SETTINGS, RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from isoloss.terminal import say
from isoloss.wording import duration
from tests.fake_studies import fake_study

SMALL = ("--n_layer=1", "--n_embd=16", "--n_head=2", "--block_size=16", "--batch_size=4", "--max_iters=12")
SMALL += ("--eval_interval=6",)

VERBS = (
    "prepare",
    "plan",
    "run",
    "train",
    "status",
    "watch",
    "report",
    "sample",
    "export",
    "compact",
    "effects",
    "fit",
    "convergence",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text_file: Path, cache: Path) -> Path:
    """A directory that `isoloss train` made."""
    out = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["train", *SMALL, "--corpus", str(text_file), "--precision", "fp32", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOLOSS_CACHE", str(cache))
        assert run_command_line([*arguments, "--out", str(out)]) == 0
    return out


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = run_command_line(arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["effects", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom isoloss.cli import run_command_line\ntry:\n    run_command_line(sys.argv[1:])\nfinally:\n"
        "    assert not {'torch', 'polars', 'pydantic', 'altair', 'numpy', 'asyncio'} & set(sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def wider_is_better(config: RunConfig, number: int, step: int) -> float:
    return 64 / config.n_embd + number / 97 + 1 / (1 + step)


def test_effects_of_a_study_are_those_of_its_factors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = Study("wide", "x", factors={"n_embd": (32, 64)}, seeds=(1, 2, 3), base={"n_head": 2})
    paths = fake_study(tmp_path / "wide", study, {}, wider_is_better).paths
    own = run(capsys, "effects", str(paths.folder), "--json")
    stated = "--response=best_val_loss --factors=n_embd --block=seed"
    assert own == run(capsys, "effects", str(paths.folder), *stated.split(), "--json") and own[0] == 0
    assert json.loads(run(capsys, "effects", str(paths.folder), "--response=mfu", "--json")[1])["response"] == "mfu"
    (tmp_path / "runs.csv").write_text("n_embd,loss\n32,2\n64,1\n")
    code, _, said = run(capsys, "effects", str(tmp_path / "runs.csv"))
    assert code == 2 and "name what was measured by --response, what was varied by --factors" in said


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in (*VERBS, "doctor"):
        assert re.search(rf"^  {verb} {{1,14}}\S", out, re.MULTILINE)  # what it does stands beside it


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("verb", [*VERBS, "doctor"])
def test_the_help_of_a_verb_has_an_example_and_explains_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0 and f"Example: isoloss {verb}" in out
    explained = words(out[out.index("-h, --help ") :])
    assert not re.search(r"\b(STR|INT|FLOAT|None\})|default: None", explained)
    for option, next_word in re.findall(r" (--\w+)(?: (?:\{[^}]*\}|[A-Z][A-Z=,.]*))? (\S+)", explained):
        assert re.match("[A-Za-z]", next_word), option


def words(text: str) -> str:
    """Text that is wrapped in boxes, on one line."""
    return " ".join(re.sub("[│╭╮╰╯─|+-]{2,}|[│|]", " ", text).split())


def test_an_example_of_help_is_a_command_line_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (*VERBS, "doctor"):
        [example] = re.findall(r"Example: isoloss (.*)", run(capsys, verb, "--help")[1])
        code, _, err = run(capsys, *shlex.split(example), "--help")  # its options are known; nothing is done
        assert code == 0 and not err


def test_every_setting_has_its_description_in_the_help_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    shown = words(run(capsys, "train", "--help")[1])
    for name in SETTINGS:
        description = RunConfig.model_fields[name].description
        assert description and (name == "precision" or re.search(rf"{name} \S+ {re.escape(description)}", shown)), name


def test_the_time_left_follows_from_the_share_of_the_work_done(
    make: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two equal runs one goes on at its half: there are 150 hundredths of a run to do in all."""
    first, second = make(max_iters=100), make(max_iters=100, seed=7)
    monkeypatch.setattr(display.time, "monotonic", lambda: 1090.0)
    shown = display.Progress({run_id(run): run for run in (first, second)}, ("n_layer",), started=1000.0)
    assert shown.eta_s() is None  # nothing is done yet
    shown.take(Event(run_id(first), "running", 50, 2.0, 10.0))
    assert shown.eta_s() is None  # it only goes on from there
    shown.take(Event(run_id(first), "running", 80, 2.0, 10.0))
    shown.take(Event(run_id(second), "running", 0, 2.0, 10.0))
    shown.take(Event(run_id(second), "running", 60, 2.0, 20.0))
    assert shown.eta_s() == pytest.approx(90 * (150 - 90) / 90)
    assert shown.headline() == f"0 done, 2 running of 2; 30 tokens/s, ETA {duration(60.0)}"
    monkeypatch.setattr(display.time, "monotonic", lambda: 1001.0)
    assert shown.eta_s() is None  # too early to tell
    monkeypatch.setattr(display.time, "monotonic", lambda: 1090.0)
    shown.take(Event(run_id(first), "done", 100, 2.0))
    assert shown.eta_s() == pytest.approx(90 * (150 - 110) / 110)
    shown.take(Event(run_id(second), "failed", 0, reason="killed"))
    assert shown.eta_s() == 0


def test_messages_are_no_beginning_and_forks_begin_at_their_step(make: Callable[..., RunConfig]) -> None:
    short, long = (make(max_iters=size, schedule="constant", warmup_iters=2, eval_interval=100) for size in (100, 200))
    shown = display.Progress({run_id(run): run for run in (short, long)}, ("max_iters",))
    assert [(pace.first, pace.end) for pace in shown.paces.values()] == [(0, 100), (100, 200)]
    shown.take(Event(run_id(short), "running", 0, reason="waiting for its lock"))
    shown.take(Event(run_id(short), "running", 40))
    shown.take(Event(run_id(short), "running", 60))
    assert [(pace.first, pace.step) for pace in shown.paces.values()] == [(40, 60), (100, 100)]
    shown.take(Event(run_id(short), "diverged", 70))
    assert shown.paces[run_id(short)].end == 70


def test_the_time_left_holds_where_steps_of_small_models_take_longer_than_their_flops_say(
    make: Callable[..., RunConfig],
) -> None:
    """One worker trains the largest model first; a step takes 5 ms whatever its size, and some by its FLOPs."""
    runs = [make(n_embd=width, n_head=1, max_iters=1000, warmup_iters=0) for width in (256, 128, 64, 32, 16)]
    flops = [Pace(run, 0, 0, 1000).step_flops for run in runs]
    took_s = [1000 * (0.005 + 0.010 * each / flops[0]) for each in flops]
    assert sum(flops[1:]) < 0.4 * flops[0] and sum(took_s[1:]) > 1.4 * took_s[0]
    for n_done, off in ((1, 0.4), (2, 0.05), (4, 0.01)):
        paces = [Pace(run, 0, 1000 * (e < n_done), 1000, took_s[e] * (e < n_done)) for e, run in enumerate(runs)]
        left_s = time_left_s(paces, sum(took_s[:n_done]))
        assert left_s == pytest.approx(sum(took_s[n_done:]), rel=off)


def test_who_trains_hears_of_it(
    capsys: pytest.CaptureFixture[str], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any, listener: Any, **__: Any) -> None:
        listener.say("a message of the training")

    monkeypatch.setattr(cli_run, "run_study", train)
    monkeypatch.setattr(cli_run, "write_report", lambda _: None)
    study = Study(name="s", corpus=str(text_file), base={"n_layer": 1, "max_iters": 1})
    cli_run.run_and_report(study, tmp_path, RunOptions(device="cpu"))
    assert "a message of the training\nwriting the report" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"isoloss {__version__}\n", "")


def test_a_verb_that_is_missing_or_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys) == (2, run(capsys, "--help")[1], "")
    assert run(capsys, "pln", "quickstart") == (2, "", "isoloss: no verb is called 'pln': did you mean 'plan'?\n")


def test_json_of_a_trained_study_has_what_a_script_needs(
    capsys: pytest.CaptureFixture[str], trained: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOLOSS_CACHE", str(cache))
    code, out, _ = run(capsys, "report", str(trained), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["total"], found["counts"], found["claims"]) == (1, {"done": 1}, [])
    [folder] = (trained / "runs").iterdir()
    evals = [json.loads(line)["val_loss"] for line in (folder / "evals.jsonl").read_text().splitlines()]
    assert found["best_run"] == {"run_id": folder.name, "seed": 1337, "best_val_loss": min(evals)}
    assert Path(found["summary"]).is_file() and Path(found["report"]).is_file()
    arguments = ["train", *SMALL, "--corpus", found_corpus(trained), "--precision=fp32", "--device=cpu", "--json"]
    code, out, err = run(capsys, *arguments, "--out", str(trained))  # finished before: it is reported again
    assert code == 0 and json.loads(out) == found and "writing the report" in err


def found_corpus(trained: Path) -> str:
    return str(json.loads(next((trained / "runs").glob("*/config.json")).read_text())["corpus"])


def test_json_of_a_study_has_its_claims(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOLOSS_CACHE", str(cache))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text.txt").write_bytes(text_file.read_bytes())
    (tmp_path / "s.yaml").write_text(
        "name: s\ncorpus: ~/text.txt\nbase: {n_layer: 1, n_head: 2, block_size: 16, batch_size: 4, max_iters: 12,"
        " eval_interval: 6}\nfactors: {n_embd: [16, 24]}\nseeds: 2\nhypotheses:\n"
        "- {says: Wide is good, kind: effect, factor: n_embd, direction: down}\n"
    )
    code, out, _ = run(capsys, "run", "~/s.yaml", "--out=~/out", "--device=cpu", "--precision=fp32", "--json")
    found = json.loads(out)
    assert code == 0 and found["counts"] == {"done": 4} and {*found["best_run"]} >= {"run_id", "n_embd", "seed"}
    [claim] = found["claims"]
    assert claim["says"] == "Wide is good" and claim["verdict"] in ("supported", "contradicted", "not resolved")
    assert claim["estimate"]["low"] < claim["estimate"]["value"] < claim["estimate"]["high"] and 0 <= claim["p"] <= 1
    assert (tmp_path / "out" / "study.yaml").is_file()
    assert run(capsys, "status", "~/out")[0] == 0
    table = ("effects", "~/out/summary.csv", "--response=best_val_loss", "--factors=n_embd", "--block=seed")
    assert run(capsys, *table)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["train", "--lr", "1e-3"], "unknown option --lr: use --learning_rate"),
        (["train", "--lr=1e-3"], "unknown option --lr: use --learning_rate"),
        (["train", "--d-model", "64"], "unknown option --d-model: use --n_embd"),
        (["train", "--epochs", "3"], "unknown option --epochs: training is measured in optimizer steps: use max_iters"),
        (["run", "quickstart", "--steps", "9"], "unknown option --steps: use --set max_iters=..."),
        (["plan", "quickstart", "--n_seeds", "9"], "unknown option --n_seeds: use --seeds"),
        (["run", "quickstart", "--set", "lr=1e-3"], "unknown setting 'lr' in base: use learning_rate"),
        (["run", "quickstart", "--set", "learning_rate=0,003"], "0,003 is written with a comma: write 0.003"),
    ],
)
def test_options_of_other_programs_are_answered_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], answer: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "") and answer in err and len(err.splitlines()) == 1


def test_several_settings_on_the_command_line_are_refused_together(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capsys, "run", "quickstart", "--set", "lr=1", "--set", "dropout=2")
    assert len(err.splitlines()) == 2 and "use learning_rate" in err and "dropout=2" in err
    _, _, err = run(capsys, "train", "--n_layer=0", "--dropout=2")
    assert len(err.splitlines()) == 2 and "n_layer=0" in err and "dropout=2" in err


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--learning_rate=0,003", "write 0.003"),
        ("--max_iters=1e3", "write 1000"),
        ("--max_iters=10k", "write 10000"),
        ("--seed=one", "one is no whole number"),
    ],
)
def test_numbers_of_options_are_explained(capsys: pytest.CaptureFixture[str], option: str, hint: str) -> None:
    code, _, err = run(capsys, "train", option)
    assert code == 2 and hint in words(err)


def test_nanogpts_ways_to_write_options_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--lr_decay_iters=None", "--bias=False", "--max_iters=1_000", "--learning-rate=1e-3", "--corpus=none"]
    code, _, err = run(capsys, "train", *arguments)
    assert code == 2 and "no text file and no known corpus is called 'none'" in err


def test_the_readme_shows_every_verb() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for verb in (*VERBS, "doctor"):
        assert f"\nisoloss {verb}" in readme


def test_train_takes_nanogpts_option_names(trained: Path) -> None:
    [folder] = (trained / "runs").iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert (config["n_layer"], config["max_iters"], config["beta2"], config["precision"]) == (1, 12, 0.99, "fp32")
    assert (trained / "report" / "index.html").exists()


def test_plan_prints_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    code, out, _ = run(capsys, "plan", "group1", "--json", "--set", "n_layer=1", "--set", "n_embd=32", "--seeds", "2")
    plan = json.loads(out)
    assert code == 0
    assert len(plan["runs"]) == 32
    assert set(plan["runs"][0]) >= {
        "run_id",
        "seed",
        "n_head",
        "batch_size",
        "params_total",
        "params_non_embedding",
        "train_tokens",
        "train_flops",
    }
    assert {*SETTINGS} < {*plan["runs"][0]}
    assert plan["eta_s"] == pytest.approx(sum(plan["eta"].values()))
    assert plan["eta_s"] > 0
    code, out, _ = run(capsys, "plan", "quickstart", "--set", "max_iters=10")
    assert code == 0 and "12 runs: 6 cells × 2 seeds" in out
    left = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {("cache", "kernels")}  # compiled, for a true time


def test_status_and_report_read_a_directory(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    code, out, _ = run(capsys, "status", str(trained), "--json")
    status = json.loads(out)
    assert (code, status["counts"], status["runs"][0]["step"]) == (0, {"done": 1}, 12)
    assert run(capsys, "status", str(trained))[1].startswith("train: 1 done")
    code, out, _ = run(capsys, "report", str(trained))
    assert code == 0 and Path(out.strip()).name == "index.html"


def test_sample_prints_text_that_begins_with_the_prompt(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    code, out, err = run(capsys, "sample", str(trained), "--prompt", "ROMEO:", "--length", "20", "--number", "2")
    assert code == 0
    assert [len(text) for text in out.rstrip("\n").split("\n---\n")] == [26, 26]
    assert out.startswith("ROMEO:") and "run " in err
    code, _, err = run(capsys, "sample", str(trained), "--prompt", "Zürich")
    assert code == 2 and "the vocabulary has no 'Z'" in err and "'ü'" in err


def test_export_writes_both_formats(capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path) -> None:
    [folder] = (trained / "runs").iterdir()
    out = tmp_path / "ckpt.pt"
    assert run(capsys, "export", str(trained), "--run", folder.name[:6], "--to", "nanogpt", "--out", str(out))[0] == 0
    assert run(capsys, "export", str(trained), "--to", "hf", "--out", str(tmp_path / "hf"))[0] == 0
    assert out.exists() and (tmp_path / "hf" / "config.json").exists()


def test_doctor_tells_what_the_machine_offers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor")
    assert code == 0 and "TFLOP/s" in out and "cache: " in out
    found = json.loads(run(capsys, "doctor", "--json")[1])
    assert found["isoloss"] == __version__ and found["precision"] in found["peaks"] and found["cores"] >= 1
    assert all(f"  {name}: {peak['flops_per_s'] / 1e12:.3f}" in out for name, peak in found["peaks"].items())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "quikstart"], "did you mean 'quickstart'?"),
        (["run", "quickstart", "--workers", "0"], "--workers 0: at least 1 is needed"),
        (["run", "quickstart", "--seeds", "0"], "--seeds 0"),
        (["run", "quickstart", "--set", "n_embd"], "--set n_embd: expected SETTING=VALUE"),
        (["run", "quickstart", "--set", "n_embed=3"], "did you mean 'n_embd'?"),
        (["run", "quickstart", "--set", "n_embd=10"], "n_embd=10 is not divisible by n_head=4"),
        (["run", "quickstart", "--device", "cuda"], "--device cuda: this machine has"),
        (["run", "quickstart", "--device", "cpu", "--precision", "fp16"], "precision fp16: cpu on this machine has"),
        (["train", "--n_embd", "100", "--n_head", "8"], "n_embd=100 is not divisible by n_head=8"),
        (["prepare", "tinyshakespear"], "did you mean 'tinyshakespeare'?"),
        (["status", "nowhere"], "nowhere is no study directory"),
        (["sample", "nowhere"], "nowhere is no study directory"),
        (["prepare", "tinyshakespeare", "--offline"], "run `isoloss prepare tinyshakespeare` while online"),
    ],
)
def test_bad_input_gets_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert expected in err and len(err.splitlines()) == 1
    left = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {("cache", "kernels")}  # compiled, for a true time


def test_everything_wrong_with_a_study_file_is_a_line_each(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text("name: s\nbase:\n  lr: 1e-3\n  n_layer: 0\n", encoding="utf-8")
    assert run(capsys, "run", "s.yaml") == (
        2,
        "",
        "isoloss: s.yaml:3: unknown setting 'lr' in base: use learning_rate\n"
        "isoloss: s.yaml:4: n_layer=0: Input should be greater than or equal to 1\n",
    )


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_run_too_large_for_the_machine_is_refused_before_it_takes_memory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("isoloss.execution.study.machine_memory_bytes", lambda: 1_000_000)
    code, out, err = run(capsys, verb, "quickstart", "--device", "cpu")
    assert (code, out) == (2, "") and not any(path.is_file() for path in tmp_path.rglob("*"))
    assert "needs about 0 GB of memory, this machine has 0; take a smaller one" in err and len(err.splitlines()) == 1


def test_unknown_options_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "train", "--n_layr", "3")
    assert code == 2 and "n_layer" in err


def test_messages_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("for the person")
    assert capsys.readouterr() == ("", "for the person\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--compile=False"], "--compile False: write --compile off"),
        (["--compile", "True"], "--compile True: write --compile on"),
        (["--dtype=float32"], "unknown option --dtype: use --precision fp32"),
        (["--dataset=shakespeare_char"], "use --corpus"),
        (["--eval_only"], "isoloss status shows its best loss"),
        (["--log_interval=10"], "every step is recorded"),
        (["config/train_shakespeare_char.py", "--device=cpu"], "config/train_shakespeare_char.py is a program"),
    ],
)
def test_habits_of_nanogpt_are_answered(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    code, out, err = run(capsys, "train", *words)
    assert (code, out) == (2, "") and said in err
