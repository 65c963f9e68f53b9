"""Names, settings, answers and errors from outside are shown, never obeyed, on every way out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from rich.table import Table
from rich.text import Text

from tests.builders import trial_row, write_results
from vlmprof import api, cli
from vlmprof.escaping import as_cell, as_html, visible
from vlmprof.report import server as page
from vlmprof.report.terminal import Terminal
from vlmprof.store.heartbeat import Heartbeat, RunningTrial, write_heartbeat
from vlmprof.store.ledger import Ledger

MARKUP = ["m[v2]", "a[/b]c", "[link=https://x]y", ":smile:", "$x^{", "$a$", "_hidden", "<b>&amp;", "{0}", "%s", "\\n"]
OBEYED = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "a\x9b2Jb",
    "abc\rxyz",
    "a\x08b",
    "\u202eevil",
    "a\u200bb",
    "\ud800x",
]
HOSTILE = [*MARKUP, *OBEYED]
DROPPED = dict.fromkeys((7, 8, 11, 12, 13))
"""rich leaves these out of its own texts."""


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """The real command in this process; its exit code, and what it wrote to both streams."""

    def run(*arguments: str) -> tuple[int, str]:
        written, code = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n"), 0
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["vlmprof", *arguments])
            patch.setattr(sys, "stdout", written)
            patch.setattr(sys, "stderr", written)
            try:
                cli.main()
            except SystemExit as ended:
                code = int(str(ended.code or 0))
        written.flush()
        return code, written.buffer.getvalue().decode()  # type: ignore[attr-defined]

    return run


def require_harmless(text: str) -> None:
    obeyed = {sign for sign in text if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}
    assert not obeyed, f"{obeyed} in {text[:400]!r}"


def folder_of(place: Path, name: str) -> Path:
    """A sweep of which everything that a user, a checkpoint or an error can name has this name."""
    stored = name if name.isascii() or name.isprintable() or "\ud800" not in name else "x"  # Arrow refuses halves
    rows = [
        trial_row({"max_crops": crops}, trial=f"t{crops}", model=stored, task=stored, split=stored, accuracy=crops / 20)
        | {"requested_max_crops": f"{stored}{crops}", "point": f"max_crops={stored}{crops}", "work_key": "same"}
        | {"latency_ms_p50": 100.0 + crops, "latency_ms_p50_low": 99.0 + crops, "latency_ms_p50_high": 101.0 + crops}
        for crops in (1, 4, 9)
    ]
    write_results(place, rows, name=stored)
    ledger = Ledger(place)
    ledger.append("sweep", name=stored, trials=["t1", "t4", "t9", "f"], time="2026-08-01T12:00:00+00:00")
    ledger.append("failed", trial="f", error=stored)
    ledger.close()
    running = {"r": RunningTrial(name=stored, phase="scored", done=1, total=2, seconds=3.0, note=stored)}
    write_heartbeat(place, Heartbeat(time=1.0, beat=1, running=running))
    return place


OF_EACH_KIND = ("a[/b]c", "$x^{", "_hidden", "\x1b]0;title\x07", "\u202eevil")
EACH = [name if name in OF_EACH_KIND else pytest.param(name, marks=pytest.mark.exhaustive) for name in HOSTILE]


@pytest.mark.parametrize("name", EACH)
def test_every_command_shows_a_name_as_it_is(name: str, tmp_path: Path, say: Callable[..., tuple[int, str]]) -> None:
    folder = str(folder_of(tmp_path / "results", name))
    stored = "x" if "\ud800" in name else name
    for command in (("status", folder), ("pareto", folder), ("pareto", folder, "--across-models"), ("plot", folder)):
        code, said = say(*command)
        assert code == 0, said
        require_harmless(said)
        if command[0] in ("status", "pareto"):
            assert visible(stored.translate(DROPPED)) in said, f"{command[0]} hides or changes it"
    assert len(list((tmp_path / "results/plots").glob("*.svg"))) >= 2


@pytest.mark.parametrize("name", EACH)
def test_the_page_and_the_notebook_show_it_too(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "results", name)
    stored = "x" if "\ud800" in name else name
    told = page.ViewCache(page.Watcher(folder)).get()[1].decode()
    require_harmless("".join(_texts(json.loads(told))))
    shown = api.load(folder)._repr_html_()
    require_harmless(shown)
    assert as_html(stored) in shown
    assert "<b>" not in shown.replace("<div>", "").replace(f"<b>{as_html(stored)}</b>", "")


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in _texts(one)]
    return [text for one in value for text in _texts(one)] if isinstance(value, list) else [str(value)]


def test_two_models_whose_names_differ_in_signs_alone_have_figures_of_their_own(tmp_path: Path) -> None:
    rows = [
        trial_row({"max_crops": crops}, model=model, model_fingerprint=model, accuracy=crops / 20)
        for model in ("m[v2]", "m-v2", "m" * 400, "m" * 401)
        for crops in (1, 4)
    ]
    folder = write_results(tmp_path / "results", rows)
    from vlmprof.plots.plot import render

    drawn = render(folder, tmp_path / "figures", ["pareto_front"])
    assert len(set(drawn)) == len(drawn) == len(list((tmp_path / "figures").iterdir())) == 8


@pytest.mark.parametrize("name", EACH)
def test_a_job_and_its_faults(name: str, tmp_path: Path, say: Callable[..., tuple[int, str]]) -> None:
    job = {"name": "x", "models": [{"family": name}], "tasks": [name], "knobs": {name: [name]}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    code, said = say("check", str(tmp_path / "job.yaml"))
    assert code == 2
    require_harmless(said)
    code, said = say("pareto", str(tmp_path / visible(name).replace("/", "")))
    assert code == 2
    require_harmless(said)


def test_samples_of_a_user_s_own_data(tmp_path: Path, say: Callable[..., tuple[int, str]]) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "good.png")
    ids = [name for name in HOSTILE if "\ud800" not in name] + ["=cmd|' /C calc'!A0", "-1", "+x"]
    rows = [{"id": one, "question": one, "answers": [one], "image": f"{one}.png"} for one in ids]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = tmp_path / "faults.csv"
    code, said = say(
        *("data", "check", "local", "--path", str(tmp_path / "data.jsonl"), "--metric", "exact_match"),
        *("--to", str(table), "--most", "0"),
    )
    assert code == 2, said
    require_harmless(said)
    assert "a[/b]c" in said and "m[v2]" in said
    kept = pd.read_csv(table, dtype=str, keep_default_na=False)
    assert len(kept) == len(ids)
    assert not [cell for cell in kept.to_numpy().ravel() if cell[:1] in "=+-@\t\r" and cell not in ("", "-1")]
    assert "'=cmd|' /C calc'!A0" in set(kept["sample"])


def test_a_bug_keeps_its_trace_and_what_it_says_is_not_obeyed(
    monkeypatch: pytest.MonkeyPatch, say: Callable[..., tuple[int, str]]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("\x1b]0;owned\x07")

    monkeypatch.setattr("vlmprof.cli.listing._leaves", broken)
    code, said = say("list", "knobs")
    assert code == 1 and "RuntimeError" in said and "in broken" in said
    require_harmless(said)


def test_an_output_on_a_full_disk_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-u", "-m", "vlmprof.cli", "list", "knobs"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr


def test_styles_stay_on_their_words_and_columns_keep_their_width() -> None:
    written = io.StringIO()
    console = Terminal(file=written, width=80, force_terminal=True, color_system="standard")
    console.print(Text.assemble("\x1b\x1b", ("red", "red"), "\x1b"))
    assert written.getvalue() == "\\x1b\\x1b\x1b[31mred\x1b[0m\\x1b\n"
    table = Table("a", "b", box=None)
    table.add_row(Text("\x1b" * 5), "x")
    table.add_row("[bold]y", Text("z"))
    written.truncate(written.seek(0))
    console.print(table)
    lines = written.getvalue().splitlines()
    assert lines[1].index("x", 22) == lines[2].index("z") and "\\x1b" * 5 in lines[1] and "[bold]y" in lines[2]


def test_what_a_person_writes_is_left_as_it_is() -> None:
    for text in ("Größe µ 模型 модель", "a\tb\nc", "C:\\models", "100 %", "naïve — “q”"):
        assert visible(text) == text
    assert [as_cell(one) for one in ("-1.5", "+2e3", -3, None, "a=b")] == ["-1.5", "+2e3", -3, None, "a=b"]
