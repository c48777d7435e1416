"""Text that would run, call elsewhere or forge markup if anything took it for more than text; a study full of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoloss.files import read_record, write_checksummed, write_record
from isoloss.report.study_report import write_report
from isoloss.store.run import State
from isoloss.store.tables import StudyResults, load_study
from isoloss.study.identity import run_id
from isoloss.study.stated_hypotheses import make_hypothesis
from isoloss.study.study import Study
from tests.fake_studies import fake_study

RUN = "document.title='RAN'"


def payloads(url: str = "http://127.0.0.1:9") -> list[str]:
    """Each would change the title or call the address."""
    return [
        f"<script>{RUN}</script>",
        f"</script><script>{RUN}</script><script>",
        f"</style><script>{RUN}</script>",
        f"</title><script>{RUN}</script>",
        f"</pre></td></table><script>{RUN}</script>",
        f"</noscript><img src=x onerror={RUN}>",
        f'<img src="{url}/img" onerror="{RUN}">',
        f"<svg/onload={RUN}><math><mtext></math>",
        f"<iframe src='javascript:parent.{RUN}' srcdoc='<script>parent.{RUN}</script>'></iframe>",
        f"<a href=\"javascript:{RUN}\" autofocus onfocus=\"{RUN}\">link</a>",
        f"<meta http-equiv=refresh content='0;url={url}/meta'><base href='{url}/'>",
        f"<link rel=stylesheet href={url}/css><style>@import '{url}/import'; body {{ background: url({url}) }}</style>",
        f"<form action='{url}/form'><input name=x autofocus onfocus={RUN}></form>",
        f"<object data={url}/object></object><embed src={url}/embed>",
        f"<!--><script>{RUN}</script>-->",
        f"]]><script>{RUN}</script><![CDATA[",
        f"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM '{url}/entity'>]>&e;",
        f"\" onmouseover=\"{RUN}\" x=\"",
        f"' onmouseover='{RUN}' x='",
        f"` onmouseover={RUN} x=`",
        f"&lt;script&gt;{RUN}&lt;/script&gt; &#60;script&#62;{RUN}&#60;/script&#62;",
        f"{{{{ 7 * 7 }}}} {{% include 'style.css' %}} ${{{RUN}}}",
        f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e \\x3cscript>",
        f"line\u2028separated\u2029{RUN}//",
        f"{{\"signal\": \"{RUN}\"}} {{\"expr\": \"{RUN}\"}} datum['constructor']['constructor']('{RUN}')()",
        "\x1b[31mred\x1b]0;title\x07\x1b]8;;http://127.0.0.1:9\x1b\\link\x1b]8;;\x1b\\\x9b2J\x7f",
        "[red]markup[/red] [link=http://127.0.0.1:9]link[/link] :bomb:",
        "carriage\rreturns\r\nat the ends of lines",
        "a\x00NUL and \u202ereversed\u202c, \ufeffa mark",
        "=HYPERLINK(\"http://127.0.0.1:9\")",
    ]  # fmt: skip


def study_of(folder: Path, text: str) -> StudyResults:
    """A small study with the text wherever a study has words of its own."""
    study = Study(
        name="hostile",
        corpus=text,
        description=text,
        base={"n_layer": 2, "max_iters": 40, "eval_interval": 20},
        factors={"n_embd": (32, 64), "dropout": (0.0, 0.2)},
        seeds=(1337, 1338),
        hypotheses=tuple(
            make_hypothesis({"says": said, "kind": "effect", "factor": "n_embd", "direction": "down"}, number)
            for number, said in enumerate(_pieces(text, 290), 1)
        ),
    )
    states: dict[int, tuple[State, str]] = {1: ("failed", text), 3: ("diverged", text), 6: ("pending", "")}
    results = fake_study(folder, study, states)
    _amend(results.paths.provenance, {"started_at": text, "versions": {text: text}, "machine": {text: text}})
    _amend(results.paths.tokenizer, {"corpus": text})
    for config in results.configs:
        run = results.paths.run(run_id(config))
        if run.status.exists():
            _amend(run.status, {"provenance": {"device": text, "device_name": text, "kernels": text, "torch": text,
                                               "peak": {"flops": 2e11, "source": text}}})  # fmt: skip
            write_checksummed(run.samples, text)
    return load_study(folder)


def page_of(folder: Path, text: str) -> Path:
    """The report of such a study."""
    return write_report(study_of(folder, text)).page


def _amend(path: Path, values: Mapping[str, Any]) -> None:
    write_record(path, {**read_record(path), **values})


def _pieces(text: str, length: int) -> list[str]:
    text = " ".join(text.split())
    return [text[start : start + length] for start in range(0, len(text), length)] if len(text) > 3 else [text * 3]
