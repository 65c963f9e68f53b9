"""Tables for papers: values by hand, marks, captions, and texts that four formats must show and not obey."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.analyze.test_front_doubt import QUESTIONS, sweep
from tests.builders import trial_row, write_answers, write_results
from tests.report.test_hostile_names import HOSTILE
from vlmprof import load
from vlmprof.analyze.papers.paper_table import COLUMNS, Cell, PaperColumn, PaperTable, TableWanted, paper_tables
from vlmprof.cli import app
from vlmprof.errors import StoreError, UserError
from vlmprof.escaping import as_latex, as_markdown
from vlmprof.report.paper_table import FORMATS, paper_text

FULL = {"effect_max_crops": "no-op", "effect_moe_top_k": "no-op"}


def several_tasks(folder, tasks=("vqa_v2", "doc_vqa"), models=("a",), **columns):
    """Three configurations: the full model, one that is 10 points worse and twice as fast, and one of chance."""
    rows = []
    rng = np.random.default_rng(0)
    for model in models:
        for task in tasks:
            hard = rng.random(QUESTIONS)
            for i, (accuracy, latency) in enumerate([(0.8, 200.0), (0.7, 100.0), (0.2, 90.0)]):
                trial = f"{model}{task[0]}{i}".replace("v", "ff").ljust(6, "0")
                scores = (hard < accuracy).astype(float)
                row = trial_row(
                    {"max_crops": 3 - i},
                    trial=trial,
                    model=model,
                    model_fingerprint=model,
                    task=task,
                    accuracy=float(scores.mean()),
                    latency_ms_p50=latency,
                    vision_tokens=100.0 * (3 - i),
                    flops_first_token=2e12 * (3 - i),
                    flops_decode_step=1e10,
                    samples=QUESTIONS,
                    work_key=trial,
                    **columns,
                )
                row["effect_max_crops"] = "no-op" if i == 0 else "effective"
                rows.append(row)
                write_answers(folder, trial, {f"{task} {k}": score for k, score in enumerate(scores)})
    return write_results(folder, rows)


def only(folder, **options):
    (table,) = paper_tables(folder, TableWanted(**options)).tables
    return table


def cells_of(table, name):
    return next(one for one in table.columns if one.name == name).cells


def test_values_by_hand(tmp_path):
    table = only(several_tasks(tmp_path), rows="all")
    trials = load(tmp_path).trials.set_index("trial")
    assert table.methods[0].startswith("full model (max_crops=3") and len(table.methods) == 3
    names = ["accuracy_vqa_v2", "accuracy_doc_vqa", "relative", "vision_tokens", "flop", "total", "memory"]
    assert sorted(one.name for one in table.columns) == sorted(names)
    accuracies = {
        task: [100 * trials.loc[{"vqa": f"aff{i}00", "doc": f"ad{i}000"}[task], "accuracy"] for i in range(3)]
        for task in ("vqa", "doc")
    }
    by_name = {name: [cell.value for cell in cells_of(table, name)] for name in names}
    order = [table.methods.index(next(m for m in table.methods if f"max_crops={3 - i}" in m)) for i in range(3)]
    for i, row in enumerate(order):
        assert by_name["accuracy_vqa_v2"][row] == pytest.approx(accuracies["vqa"][i])
        share = np.mean([100 * accuracies[task][i] / accuracies[task][0] for task in accuracies])
        assert by_name["relative"][row] == pytest.approx(share)
        assert by_name["flop"][row] == pytest.approx(2 * (3 - i) + 0.01 * 15)  # TFLOP, 16 tokens
        assert by_name["total"][row] == pytest.approx([200, 100, 90][i])
        assert by_name["memory"][row] == pytest.approx(16 * 1024**3 / 1e9)
    units = {one.name: one.unit for one in table.columns}
    assert units["flop"] == "TFLOP" and units["memory"] == "GB" and units["accuracy_doc_vqa"] == "%"


def test_bold_second_and_daggers(tmp_path):
    table = only(several_tasks(tmp_path), rows="all")
    accuracy = cells_of(table, "accuracy_vqa_v2")
    assert sorted(cell.place for cell in accuracy) == [0, 1, 2]
    assert accuracy[0].place == 1 and not accuracy[0].told_apart
    assert all(cell.told_apart for cell in accuracy[1:])
    assert not any(cell.told_apart or cell.place for cell in cells_of(table, "memory"))  # exact, and equal
    relative = cells_of(table, "relative")
    assert relative[0].value == 100 and relative[0].low is None and all(c.low < c.value < c.high for c in relative[1:])
    assert any(cell.told_apart for cell in cells_of(table, "total"))


def test_what_is_not_told_apart_has_no_dagger(tmp_path):
    table = only(sweep(tmp_path, [0.6, 0.6], [100, 100.1]), rows="all", columns=("accuracy", "total"))
    assert not any(cell.told_apart for column in table.columns for cell in column.cells)
    assert "†" not in paper_text(table, "markdown")


def test_holm_looks_at_all_rows(tmp_path):
    """A difference of 2.2 standard errors is told apart alone, and not among forty."""
    from vlmprof.analyze.objectives import Objective
    from vlmprof.analyze.papers.paper_values import TaskValues

    def told(rows):
        difference = np.zeros(rows)
        difference[0] = 2.2
        nothing, one = np.full(rows, np.nan), Objective(column="accuracy", better="higher")
        values = TaskValues(
            objective=one, value=difference, low=nothing, high=nothing, difference=difference, error=np.ones(rows)
        )
        return bool(values.told_apart[0])

    assert told(1) and not told(40)


def test_the_front_is_shown_with_the_full_model(tmp_path):
    folder = sweep(tmp_path, [0.3, 0.6, 0.5, 0.6], [50, 100, 150, 200])
    table = only(folder)
    assert len(table.methods) == 3 and table.methods[0].startswith("full model")
    assert not any("max_crops=3" in method for method in table.methods)  # beaten by the second


def test_rows_by_name_in_their_order(tmp_path):
    table = only(several_tasks(tmp_path), rows="max_crops=1, full, aff1, full")
    assert [re.search(r"max_crops=\d", method)[0] for method in table.methods] == [f"max_crops={i}" for i in (1, 3, 2)]


def test_a_configuration_that_one_task_lacks(tmp_path):
    folder = several_tasks(tmp_path)
    rows = [trial_row({"max_crops": 7}, trial="only", model="a", model_fingerprint="a", task="vqa_v2", samples=400)]
    write_answers(folder, "only", {f"vqa_v2 {k}": float(k % 2) for k in range(QUESTIONS)})
    table = only(write_results(folder, rows), rows="all")
    row = next(i for i, method in enumerate(table.methods) if "max_crops=7" in method)
    assert cells_of(table, "accuracy_doc_vqa")[row].value is None
    assert cells_of(table, "accuracy_vqa_v2")[row].value is not None
    assert cells_of(table, "total")[row].value is None and cells_of(table, "relative")[row].value is None


def test_models_apart_and_together(tmp_path):
    folder = several_tasks(tmp_path, models=("a", "b"))
    assert len(paper_tables(folder).tables) == 2
    table = only(folder, rows="all", across_models=True)
    assert len(table.methods) == 6 and sum(method.startswith("full model") for method in table.methods) == 2
    relative = {m: c.value for m, c in zip(table.methods, cells_of(table, "relative"), strict=True)}
    assert [value for method, value in relative.items() if method.startswith("full")] == [100, 100]


def test_the_caption_says_what_is_shown(tmp_path):
    table = only(several_tasks(tmp_path, vlmprof="0.9", torch="2.11"), rows="all")
    caption = " ".join(table.caption)
    for said in ("vqa_v2 (n = 400)", "NVIDIA H200", "bfloat16", "16 output tokens", "vlmprof 0.9, torch 2.11"):
        assert said in caption
    assert "the mean over the tasks" in caption and "Holm's adjustment" in caption
    assert "is optimistic, as it is the best of 3 rows" in caption and "(corrected: " in caption


def test_no_answers_no_daggers_but_a_caveat(tmp_path):
    rows = [trial_row({"max_crops": i}, trial=f"t{i}", accuracy=0.3 * i) for i in (1, 2)]
    table = only(write_results(tmp_path, rows), rows="all")
    assert not any(cell.told_apart for cell in cells_of(table, "accuracy"))
    assert any("no probabilities are given: 2 of 2 trials have no scored sample" in said for said in table.caveats)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": "max_crop=1"}, "no knob 'max_crop'"),
        ({"rows": "nonsense"}, "no configuration 'nonsense'"),
        ({"rows": " , "}, "rows: expected 'front', 'all'"),
        ({"columns": ("acuracy",)}, "did you mean 'accuracy'"),
        ({"columns": ("device",)}, "no column 'device' for a table"),
        ({"columns": ("energy_j_per_token",)}, "nothing to show: energy_j_per_token was not measured"),
    ],
)
def test_bad_input_is_refused(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        paper_tables(sweep(tmp_path, [0.3, 0.6], [50, 100]), TableWanted(**options))


def test_unfinished_and_no_sweep(tmp_path):
    folder = write_results(tmp_path / "a", [trial_row({"max_crops": 1}, state="failed")])
    with pytest.raises(UserError, match=r"nothing to show \(1 failed"):
        paper_tables(folder)
    with pytest.raises(StoreError):
        paper_tables(tmp_path / "b")


def table_of(text):
    cells = (Cell(value=61.25, low=60.0, high=62.5, place=1), Cell(value=3.0, told_apart=True, place=2), Cell())
    column = PaperColumn(name="c", header=text, unit="u", cells=cells)
    return PaperTable(name=text, methods=(text, "b", "c"), columns=(column,), caption=(text,))


def latex_rows(text):
    """The cells of each row; fails on anything that LaTeX obeys and the table does not mean."""
    for line in text.splitlines():
        depth = 0
        for part in re.findall(r"\\.|[{}]", line):
            depth += {"{": 1, "}": -1}.get(part, 0)
            assert depth >= 0
        assert depth == 0, line
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    lines = [line for line in body.splitlines() if line and line != r"\midrule"]
    assert all(line.endswith(r"\\") for line in lines)
    rows = [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in lines]
    for row in rows:
        for cell in row:
            bare = re.sub(r"\$(\\pm|\^\{\\dagger\})\$|\\(textbf|underline|text[a-z]+)\b|\\[&%$#_{}]", "", cell)
            assert not re.search(r"[\\&%$#_^~]", bare), cell
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_in_latex(text):
    rows = latex_rows(paper_text(table_of(text), "latex"))
    assert [len(row) for row in rows] == [2, 2, 2, 2]
    assert rows[1][1].startswith(r"\textbf{61.2} $\pm$ 1.2") and rows[2][1].endswith(r"$^{\dagger}$")
    assert rows[3][1] == "-"


class _Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_in_html(text):
    seen = _Seen()
    seen.feed(paper_text(table_of(text), "html"))
    assert set(seen.tags) == {"table", "caption", "thead", "tr", "th", "tbody", "td", "b", "u", "sup"}
    from vlmprof.escaping import visible

    assert "".join(visible(text).split()) in "".join("".join(seen.texts).split())


@pytest.mark.parametrize("text", [*HOSTILE, "a|b", "x\n| y |"])
def test_hostile_texts_in_markdown(text):
    lines = paper_text(table_of(text), "markdown").splitlines()
    rows = lines[:5]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows), rows
    assert not re.search(r"(?<!\\)[`\[\]$]", lines[2]) and "<b>&" not in lines[2]


@pytest.mark.parametrize("text", [*HOSTILE[:-1], "=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", 'a"b,c'])
def test_csv_reads_back_with_pandas(text):
    read = pd.read_csv(io.StringIO(paper_text(table_of(text), "csv")), keep_default_na=False, na_values=[""])
    assert len(read) == 3 and read.iloc[:, 1].tolist()[:2] == [61.25, 3.0] and np.isnan(read.iloc[2, 1])
    assert not str(read["method"][0]).startswith(("=", "@", "+", "\t", "\r"))


def test_csv_of_a_sweep_has_numbers_in_full(tmp_path):
    table = only(several_tasks(tmp_path), rows="all")
    read = pd.read_csv(io.StringIO(paper_text(table, "csv")))
    assert read["total (ms)"].tolist() == [cell.value for cell in cells_of(table, "total")]
    assert {"accuracy_vqa_v2_low (%)", "total_high (ms)", "accuracy_vqa_v2_told_apart"} <= set(read)


@given(st.text(max_size=30))
def test_any_text_is_one_line_of_latex_and_markdown(text):
    for escaped in (as_latex(text), as_markdown(text)):
        assert len(escaped.splitlines()) <= 1
    assert not re.search(r"(?<!\\)[&%#]", as_latex(text)) and not re.search(r"(?<!\\)\|", as_markdown(text))


def test_intervals_as_asked():
    table = table_of("x")
    assert "**61.2** ± 1.2" in paper_text(table, "markdown") or "**61.3** ± 1.2" in paper_text(table, "markdown")
    assert "[60.0, 62.5]" in paper_text(table, "markdown", "ends")
    assert "±" not in paper_text(table, "html", "none")
    for form, intervals in (("pdf", "half"), ("html", "full")):
        with pytest.raises(UserError):
            paper_text(table, form, intervals)


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "120"})


def test_on_the_terminal_and_in_a_file(tmp_path):
    folder = several_tasks(tmp_path / "results")
    tables = {form: tmp_path / f"table.{form}" for form in FORMATS}
    for form, file in tables.items():
        assert run("table", folder, "--format", form, "--rows", "all", "--to", file).exit_code == 0
        assert file.read_text().count("max_crops") + file.read_text().count("max\\_crops") == 3
    assert tables["markdown"].read_text() in run("table", folder, "--rows", "all").stdout
    again = run("table", folder, "--to", tables["markdown"])
    assert isinstance(again.exception, UserError) and "is there already" in str(again.exception)
    assert run("table", folder, "--to", tables["markdown"], "--force").exit_code == 0


def test_from_python(tmp_path):
    found = load(several_tasks(tmp_path)).table("all", columns=["accuracy", "total"])
    assert set(found.frame) >= {"table", "method", "accuracy_vqa_v2", "accuracy_doc_vqa_low", "total"}
    assert set(COLUMNS) >= {"accuracy", "total", "memory"}
