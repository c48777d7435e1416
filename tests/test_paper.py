from __future__ import annotations

import html
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import altair as alt
import polars as pl
import pytest

from isoloss.cli import run_command_line
from isoloss.errors import StoreError
from isoloss.report import pdf as pdf_module
from isoloss.report.chapter import Chapter
from isoloss.report.chapters.method import method_chapter, references_chapter
from isoloss.report.chart import MAX_MARKS, NARROW, WIDE, Figure, inline, sized, some, some_in_words
from isoloss.report.fonts import FOLDERS, VARIABLE, keep_font_in_memory
from isoloss.report.latex import as_latex, escaped
from isoloss.report.page import render_section
from isoloss.report.paper import MAX_ROWS, write_paper
from isoloss.report.pdf import BROWSERS, print_page
from isoloss.report.references import cited, references_in
from isoloss.report.snapshot import take_snapshot
from isoloss.report.standalone import write_chapter
from isoloss.report.table import Column, Table, as_markdown
from isoloss.study.config import SETTINGS
from isoloss.study.study import Study
from tests.fake_studies import fake_study

HOSTILE = [
    r"50% & $x_1$ #2 {a} ~b ^c \input{/etc/passwd} \\[1cm]",
    "<script>alert(1)</script>",
    "学习率 😀 Łódź Ąę «q» „b‟ Ж ŉ ﷽",
    "[option] *starred",
    "line\nbreak\x1b[31m\x00\x0c\x7f\u202e",
    "a--b---c | d `e` \"f\" 'g' ?` !`",
    "x" * 300,
    "η² α β −1.5 × ½ – — … ≤ ≥ ≈ ± → ′ · µ 10⁻³ N₀",
    "",
]


def table_of(texts: list[str], name: str = "levels") -> Table:
    n = len(texts)
    frame = pl.DataFrame(
        {"level": texts, "effect": [-0.25] * n, "low": [-0.5] * n, "high": [0.125] * n, "n": [1234] * n, "x": [1.0] * n}
    )
    columns = [
        Column("level", texts[0]),
        Column("effect", "effect", "difference", unit="nats", interval=("low", "high")),
        Column("n", "n_of_runs", "count"),
    ]
    return Table(name, f"Effects of {texts[0]}", frame, columns)


def text_table(n: int) -> Table:
    frame = pl.DataFrame({f"text_{i}": ["word " * 20] for i in range(n)})
    return Table(f"texts{n}", "Texts", frame, [Column(name, name) for name in frame.columns])


def figure_of(name: str, title: str = "Wider is better") -> Figure:
    frame = pl.DataFrame({"width": [64, 128, 256], "loss": [1.8, 1.7, 1.6], "level": ["a", "b", "c"]})

    def draw(width: int) -> alt.TopLevelMixin:
        points = (
            alt.Chart(inline(frame)).mark_line(point=True, clip=True).encode(x="width:Q", y="loss:Q", color="level:N")
        )
        return sized(points, width, 200)

    return Figure(name, title, "Mean over 3 seeds", frame, draw)


def compiled(folder: Path, *files: str) -> str:
    """The log of pdflatex on a document that does nothing but include files."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex")
    body = "".join(f"\\input{{{name}}}\n" for name in files)
    head = "\\documentclass{article}\n\\usepackage{array, booktabs, longtable, graphicx}\n\\begin{document}\n"
    (folder / "main.tex").write_text(f"{head}{body}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "main.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    return log


def text_of(pdf: Path) -> str:
    return subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, check=True).stdout.decode()


def test_hostile_tables_compile_and_say_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "short.tex").write_text(as_latex(table_of(HOSTILE)), encoding="utf-8")
    (tmp_path / "long.tex").write_text(as_latex(table_of(HOSTILE * 5, "many")), encoding="utf-8")
    for n in (2, 3, 7):
        (tmp_path / f"texts{n}.tex").write_text(as_latex(text_table(n)), encoding="utf-8")
    log = compiled(tmp_path, "short.tex", "long.tex", "texts2.tex", "texts3.tex", "texts7.tex")
    assert "Missing character" not in log
    assert "Overfull" not in log
    if shutil.which("pdftotext"):
        text = text_of(tmp_path / "main.pdf")
        assert text.count("−0.2500 [−0.5000, +0.1250]") == 6 * len(HOSTILE)
        for words in ("<script>alert(1)</script>", "[option] *starred", "a--b---c | d", "1,234", "effect (nats)"):
            assert words in text
        assert "root:" not in text


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("n_embd", "n\\_\\allowbreak{}embd"),
        ("100 %", "100 \\%"),
        ("\\", "{\\textbackslash}"),
        ("中文", "\\ensuremath{\\langle}U+4E2D U+6587\\ensuremath{\\rangle}"),
        ("a\nb", "a b"),
        ("−1", "\\ensuremath{-}1"),
        ("--", "-{}-"),
        ("y" * 17, f"{'y' * 16}\\allowbreak{{}}y"),
        ("gradient_accumulation_steps", "gradient\\_\\allowbreak{}accumulation\\_\\allowbreak{}steps"),
    ],
)
def test_text_becomes_latex(text: str, latex: str) -> None:
    assert escaped(text) == latex


def test_numbers_are_right_aligned_with_units_and_long_text_wraps() -> None:
    short, wide = as_latex(table_of(["a", "b"])), as_latex(table_of(["a", "word " * 10]))
    assert "\\begin{tabular}{lrr}" in short
    assert "{}b & \\ensuremath{-}0.2500 [\\ensuremath{-}0.5000, +0.1250] & 1,234 \\\\\n" in short
    assert "\\begin{tabular}{>{\\raggedright\\arraybackslash}p{18em}rr}" in wide


def test_a_long_table_breaks_and_a_wide_one_repeats_its_first_column() -> None:
    long = as_latex(table_of(list(map(str, range(60)))))
    assert "\\begin{longtable}" in long and "\\begin{table}" not in long
    assert "{}59 & " in long
    frame = pl.DataFrame({"term": ["a"], **{f"value_{i:02}": [float(i)] for i in range(20)}})
    wide = as_latex(
        Table("wide", "Many", frame, [Column(n, n, "text" if n == "term" else "loss") for n in frame.columns])
    )
    assert wide.count("\\begin{tabular}{lr") == 4
    assert wide.count("{}term & ") == wide.count("{}a & ") == 4
    assert all(wide.count(f"{i}.0000") == 1 for i in range(10, 20))
    assert wide.count("\\caption") == 1


def test_a_very_long_table_is_whole_in_its_csv_alone(tmp_path: Path) -> None:
    table = table_of([f"level {i:04d}" for i in range(MAX_ROWS + 1)])
    write_paper(tmp_path / "out", [Chapter("long", "Long", ["Many rows."], tables=[table])])
    csv, md, tex = (
        next((tmp_path / "out").rglob(f"levels.{kind}")).read_text("utf-8") for kind in ("csv", "md", "tex")
    )
    assert csv.count("level ") == MAX_ROWS + 1 and f"level {MAX_ROWS:04d}" in csv
    for text in (md, tex):
        assert f"level {MAX_ROWS - 1:04d}" in text and f"level {MAX_ROWS:04d}" not in text
        assert "The first 1,000 of 1,001 rows; the CSV has all." in text
    assert "The first" not in as_markdown(table_of(["one"]).first(MAX_ROWS))


def test_of_many_rows_a_chart_draws_some_in_their_order() -> None:
    rows = pl.DataFrame({"i": range(2000)})
    drawn = some(rows)["i"]
    assert len(drawn) == drawn.n_unique() == MAX_MARKS and drawn.is_sorted() and drawn.equals(some(rows)["i"])
    assert drawn.mean() == pytest.approx(1000, abs=100) and str(MAX_MARKS) in some_in_words(rows)
    assert some(rows[:MAX_MARKS]).equals(rows[:MAX_MARKS]) and some_in_words(rows[:MAX_MARKS]) == ""


def test_markdown_is_text_alone() -> None:
    table = as_markdown(table_of(["<b>x</b> | [a](http://b) *c* `d`", "plain"]))
    assert "| \\<b\\>x\\</b\\> \\| \\[a](http://b) \\*c\\* \\`d\\` | −0.2500 [−0.5000, +0.1250] | 1,234 |" in table
    assert "| --- | ---: | ---: |" in table


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "paper"
    folder.mkdir()
    for name in ("outgrown-3.3in.pdf", "main.tex"):
        (folder / name).write_bytes(b"")
    (folder / "files.txt").write_text("outgrown-3.3in.pdf\n../index.html\n/etc/passwd\n")
    (folder.parent / "index.html").write_text("a page")
    tests = [f"p-values are adjusted {cited('holm1979', 'lenth1989')}, at 5% (two-sided).", "n = 2."]
    figures, tables = [figure_of("effects", HOSTILE[0])], [table_of(HOSTILE, "effects")]
    chapters = [
        Chapter("effects", "Tests & intervals", ["Wider is better."], figures, tables, details=tests),
        Chapter("answer", "Answer", ["Nothing of methods (Huber 1964)."]),
        Chapter("method", "Data", [], details=[f"The corpus is my_text {cited('karpathy2015')}."]),
    ]
    write_paper(folder, chapters)
    return folder


def test_every_figure_and_table_has_all_formats(paper: Path) -> None:
    images = [f"effects-{width}in.{kind}" for width in ("3.3", "6.75") for kind in ("pdf", "svg", "png")]
    tables = ["effects.csv", "effects.md", "effects.tex", "effects-figure.csv"]
    others = ["figures.tex", "methods.md", "methods.tex", "references.bib"]
    written = sorted([*images, *tables, *others])
    assert (paper / "files.txt").read_text().split() == written
    assert {path.name for path in paper.iterdir()} == {*written, "files.txt", "main.tex"}  # main.tex is a person's own
    assert (paper.parent / "index.html").is_file()
    assert (paper / "effects-figure.csv").read_text().startswith("width,loss,level\n64,1.8,a\n")


@pytest.mark.parametrize(("name", "pixels", "inches"), [("3.3", NARROW, 3.3), ("6.75", WIDE, 6.75)])
def test_pictures_have_their_size_in_all_formats(paper: Path, name: str, pixels: int, inches: float) -> None:
    png = (paper / f"effects-{name}in.png").read_bytes()
    dots = struct.unpack(">I", png[16:20])[0]
    per_metre = struct.unpack(">I", png[png.index(b"pHYs") + 4 :][:4])[0]
    assert dots / (per_metre * 0.0254) == pytest.approx(inches, abs=0.01)
    svg = (paper / f"effects-{name}in.svg").read_text(encoding="utf-8")
    assert re.search(r'width="([\d.]+)"', svg)[1] == str(pixels)  # type: ignore[index]
    if shutil.which("pdfinfo"):
        pdf = paper / f"effects-{name}in.pdf"
        info = subprocess.run(["pdfinfo", pdf], capture_output=True, check=True).stdout.decode()
        assert float(re.search(r"Page size:\s+([\d.]+)", info)[1]) == pytest.approx(72 * inches, abs=0.5)  # type: ignore[index]
        assert "Date" not in info
        fonts = subprocess.run(["pdffonts", pdf], capture_output=True, check=True).stdout.decode().splitlines()[2:]
        assert fonts and all("yes yes" in font for font in fonts)  # embedded, as a subset


def test_no_text_is_below_seven_points(paper: Path) -> None:
    for path in paper.glob("*.svg"):
        sizes = re.findall(r'font-size="([\d.]+)px"', path.read_text(encoding="utf-8"))
        assert sizes and min(map(float, sizes)) * 0.75 >= 7


def test_a_picture_has_the_same_bytes_whatever_was_drawn_before(paper: Path, tmp_path: Path) -> None:
    chapter = Chapter("c", "C", [], [figure_of("other"), figure_of("effects", HOSTILE[0])])
    write_paper(tmp_path, [chapter])
    for path in paper.glob("effects-*in.*"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_methods_cite_what_the_bibliography_holds(paper: Path) -> None:
    latex = (paper / "methods.tex").read_text(encoding="utf-8")
    assert (
        "\\paragraph{Tests \\& intervals} p-values are adjusted \\cite{holm1979,lenth1989}, at 5\\% (two-sided)."
        in latex
    )
    entries = re.findall(r"@\w+\{(\w+),", (paper / "references.bib").read_text(encoding="utf-8"))
    assert set(entries) >= {"holm1979", "karpathy2015", "lenth1989"}
    markdown = (paper / "methods.md").read_text(encoding="utf-8")
    assert "**Data.** The corpus is my\\_text (Karpathy 2015)." in markdown
    assert "- Holm, Sture: A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal" in markdown


def test_all_of_the_paper_compiles(paper: Path, tmp_path: Path) -> None:
    shutil.copytree(paper, tmp_path / "paper")
    tail = "\\bibliographystyle{plain}\n\\bibliography{references}\n"
    (tmp_path / "paper" / "end.tex").write_text(tail, encoding="utf-8")
    files = ("figures.tex", "effects.tex", "methods.tex", "end.tex")
    compiled(tmp_path / "paper", *files)
    if shutil.which("bibtex"):
        done = subprocess.run(["bibtex", "main"], cwd=tmp_path / "paper", capture_output=True, check=False)
        assert done.returncode == 0, done.stdout
        compiled(tmp_path / "paper", *files)
        assert "undefined" not in compiled(tmp_path / "paper", *files)


def test_a_citation_reads_the_same_everywhere() -> None:
    assert cited("clopper1934", "hoffmann2022") == "(Clopper and Pearson 1934; Hoffmann et al. 2022)"
    assert references_in(["a (Holm 1979, for one) and (Holm 1979; none)"]) == []
    with pytest.raises(KeyError):
        cited("nobody1900")


def test_the_page_links_the_files_of_the_paper(paper: Path) -> None:
    chapter = Chapter("effects", "Effects", [], [figure_of("effects")], [table_of(["a"], "effects")])
    page = render_section(chapter, files="paper").html
    links = re.findall(r'href="paper/([^"]*)"', page)
    assert links == [*(f"effects-6.75in.{kind}" for kind in ("pdf", "svg", "png")), "effects-figure.csv", "effects.csv"]
    assert all((paper / link).is_file() for link in links)


STUDY = Study(
    name="method",
    corpus="tinyshakespeare",
    base={"max_iters": 40, "eval_interval": 20, "lr_decay_iters": 30, "precision": "bf16"},
    factors={"n_embd": (32, 64), "dropout": (0.0, 0.2)},
    seeds=tuple(range(13)),
)


def method_of(folder: Path, study: Study) -> str:
    return " ".join(method_chapter(take_snapshot(fake_study(folder, study, {1: ("failed", "no memory")}))).details)


def test_methods_state_data_model_training_evaluation_runs_and_machine(tmp_path: Path) -> None:
    said = method_of(tmp_path, STUDY)
    for words in (
        f"tinyshakespeare (Karpathy 2015), SHA-256 {'ab' * 32}.",
        "The first 90 % of the text, 900,000 tokens, is for training, and the rest, 100,000 tokens, for validation",
        "n_embd {32, 64}, block_size 64, bias false and dropout {0.0, 0.2} (Srivastava et al. 2014).",
        "AdamW (Loshchilov and Hutter 2019) with beta1 0.9, beta2 0.99 and weight_decay 0.1",
        "max_iters 40 steps of 768 tokens",
        "over warmup_iters 100 steps to learning_rate 0.001 and falls by a cosine",
        "to min_lr 0.0001 at lr_decay_iters 30.",
        "Matrix products run in bf16, all else in fp32.",
        "on the whole validation split",
        "4 combinations of n_embd {32, 64} and dropout {0.0, 0.2}, each with 13 seeds (13 values from 0 to 12).",
        "Of 52 runs, 51 done and 1 failed; results are drawn from those that are done.",
        "Versions: isoloss 0.1.0.",
        "Runs by device_name: a processor (52 runs).",
    ):
        assert words in said


def test_methods_name_what_a_study_does_otherwise(tmp_path: Path) -> None:
    other = {"decay_lr": False, "grad_clip": 0.0, "eval": "sampled", "eval_iters": 7}
    said = method_of(tmp_path, Study(name="o", corpus="my_$text", tokenizer="byte", base={"max_iters": 20, **other}))
    assert "The corpus is my_$text, SHA-256" in said and "Its tokens are bytes" in said
    assert "The learning rate is constant, learning_rate 0.001. All arithmetic is fp32." in said
    assert "random batches of each split, eval_iters 7 of them" in said and "whole validation split" not in said
    assert "clipped" not in said and "Srivastava" not in said and "cosine" not in said
    assert "The study has 1 combination, each with 1 seed (1337)." in said


def test_settings_are_all_in_one_of_two_tables_and_sources_in_a_third(tmp_path: Path) -> None:
    chapter = method_chapter(take_snapshot(fake_study(tmp_path, STUDY, {})))
    stated, default = (table.frame for table in chapter.tables)
    assert stated.row(0) == ("n_embd", "{32, 64}", "factors")
    assert ("precision", "bf16", "base") in stated.rows() and ("n_layer", "4", "default") in default.rows()
    assert sorted([*stated["setting"], *default["setting"]]) == sorted(SETTINGS)
    sources = references_chapter([chapter]).tables[0].frame
    assert sources["cited"].to_list() == sorted(sources["cited"]) and "Karpathy 2015" in sources["cited"]
    assert references_chapter([]).tables == []


def test_a_chapter_becomes_a_folder_that_may_be_written_again_and_nothing_else_is_touched(tmp_path: Path) -> None:
    first = Chapter(
        "effects", "Effects <of> x", ["Wider is better."], [figure_of("effects")], [table_of(["a"], "effects")]
    )
    page = write_chapter(tmp_path / "out", first, "runs.csv")
    html = page.read_text(encoding="utf-8")
    assert "<h1>Effects &lt;of&gt; x: runs.csv</h1>" in html and "Wider is better." in html
    assert all((page.parent / link).is_file() for link in re.findall(r'href="(paper/[^"]*)"', html))
    write_chapter(tmp_path / "out", Chapter("effects", "Effects", ["None."]), "runs.csv")
    assert not list((tmp_path / "out" / "paper").glob("effects*"))

    for name in ("thesis.tex", "index.html"):
        other = tmp_path / name.partition(".")[0]
        other.mkdir()
        (other / name).write_text("mine")
        with pytest.raises(StoreError, match=f"{other} holds {name}, which no earlier --out wrote"):
            write_chapter(other, first, "runs.csv")
        assert [path.name for path in other.iterdir()] == [name] and (other / name).read_text() == "mine"
    with pytest.raises(StoreError, match="Not a directory"):
        write_chapter(tmp_path / "thesis" / "thesis.tex", first, "runs.csv")
    (tmp_path / "out" / "paper").rename(tmp_path / "elsewhere")
    (tmp_path / "out" / "paper").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"):
        write_chapter(tmp_path / "out", first, "runs.csv")


def test_a_page_is_printed_by_an_installed_browser(tmp_path: Path) -> None:
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium")
    page = tmp_path / "a b" / "index.html"
    page.parent.mkdir()
    page.write_text("<title>T</title><p>The answer is 42.</p>", encoding="utf-8")
    pdf = print_page(page)
    assert pdf == page.with_name("report.pdf")
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF") and b"/CreationDate (D:19700101000000" in content
    if shutil.which("pdftotext"):
        assert text_of(pdf).strip() == "The answer is 42."


def test_without_a_browser_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "index.html"
    page.write_text("x")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match="no Chromium or Chrome is installed; open the page and print it yourself"):
        print_page(page)
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\necho it broke >&2\nexit 3\n")
    browser.chmod(0o755)
    with pytest.raises(StoreError, match="wrote no PDF \\(it broke\\)"):
        print_page(page)
    browser.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(pdf_module, "TIMEOUT_S", 0.2)
    with pytest.raises(StoreError, match="took more than"):
        print_page(page)
    assert not page.with_name("report.pdf").exists()


VERBS = {
    "effects": ["--response", "loss", "--factors", "width & _ %,half", "--run", "width & _ %,half", "--reduce", "last"],
    "fit": ["--form", "LD", "--tokens", "step"],
    "convergence": ["--run", "width & _ %", "--target", "2.1"],
}


def anyones_table(folder: Path) -> Path:
    """A table whose names LaTeX, HTML and Markdown would obey."""
    width = ["<b>", "$", "a_b"]
    rows = [
        {
            "width & _ %": name,
            "half": "<i>" if step % 2 else "#",
            "step": 50 * step,
            "loss": 1.5 + i / 10 + 2 / step**0.5 + 0.01 * (step * 7 % 5),
        }
        for i, name in enumerate(width)
        for step in range(1, 31)
    ]
    path = folder / "table.csv"
    pl.DataFrame(rows).write_csv(path)
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_writes_its_chapter_as_a_folder(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = anyones_table(tmp_path), tmp_path / "out"
    words = [verb, str(table), *VERBS[verb], "--out", str(out)]
    assert run_command_line(words) == 0
    said = capsys.readouterr()
    page = (out / "index.html").read_text(encoding="utf-8")
    assert said.err.splitlines()[-1] == str(out / "index.html")
    assert (
        html.escape(said.out.split(".")[0].replace("\n", " ")) in page and "<h1>" in page and ": table.csv</h1>" in page
    )
    kinds = {path.suffix: path for path in (out / "paper").iterdir()}
    assert {".pdf", ".svg", ".png", ".csv", ".md", ".tex", ".bib"} <= kinds.keys()
    assert "@" in (out / "paper" / "references.bib").read_text()
    compiled(out / "paper", *(path.name for path in sorted((out / "paper").glob("*.tex"))))

    (out / "paper" / "main.tex").rename(out / "main.tex")
    assert run_command_line([*words, "--json"]) == 2
    assert (
        capsys.readouterr().err
        == f"isoloss: {out} holds main.tex, which no earlier --out wrote; choose a new or an empty folder\n"
    )
    (out / "main.tex").unlink()
    assert run_command_line([*words, "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_system_fonts_come_after_the_font_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """vl_convert looks for fonts at the first picture, where none are, and is given the system's after that."""
    seen: list[str] = []

    def first_picture(_: str) -> None:
        seen.extend(entry.name for entry in Path(os.environ[VARIABLE]).parent.iterdir())
        assert str(Path(os.environ[VARIABLE]).parent) in Path(os.environ[VARIABLE]).read_text()

    keep = keep_font_in_memory.__wrapped__
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("vl_convert.svg_to_pdf", first_picture)
    monkeypatch.setattr("vl_convert.register_font_directory", seen.append)
    keep()
    assert seen[:2] == ["fonts.conf", "/usr/share/fonts"] and VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "own.conf")
    keep()
    assert len(seen) == 1 + len(FOLDERS) and os.environ[VARIABLE] == "own.conf"
