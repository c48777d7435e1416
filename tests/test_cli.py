"""The command line as a person meets it: the contract's verbs, outputs, exit codes and complaints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from isoloss.cli import run_command_line
from isoloss.cli.terminal import say

SMALL = ("--n_layer=1", "--n_embd=16", "--n_head=2", "--block_size=16", "--batch_size=4", "--max_iters=12")
SMALL += ("--eval_interval=6",)


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


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom isoloss.cli import run_command_line\ntry:\n    run_command_line(['--help'])\nfinally:\n"
        "    assert not {'torch', 'polars', 'pydantic', 'altair', 'numpy'} & set(sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    for verb in ("prepare", "plan", "run", "train", "status", "report", "sample", "export", "doctor"):
        assert re.search(rf"• {verb} ", answer.stdout)


def test_the_readme_shows_every_verb() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for verb in ("prepare", "plan", "run", "train", "status", "report", "sample", "export", "doctor"):
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
    assert "n_embd" not in plan["runs"][0]
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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "quikstart"], "did you mean 'quickstart'?"),
        (["run", "quickstart", "--workers", "0"], "--workers 0: at least 1 is needed"),
        (["run", "quickstart", "--seeds", "0"], "--seeds 0"),
        (["run", "quickstart", "--set", "n_embd"], "--set n_embd: expected field=value"),
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
