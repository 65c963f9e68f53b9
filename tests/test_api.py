"""The Python API as a notebook uses it: the page of the docs is run, and what it leaves is read in every way."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import vlmprof
from tests.builders import trial_row, write_results
from tests.jobs import QUICK, job_file
from tests.sweep.sweeps import starts
from tests.test_docs import ANY_KNOB, DOCS, cells, fenced, section
from vlmprof import api
from vlmprof.errors import SpecError, StoreError, UserError
from vlmprof.report.notebook import MOST_ROWS
from vlmprof.store import schema
from vlmprof.store.descriptions import DESCRIPTIONS, describe
from vlmprof.store.ledger import read_states

SMALL: dict[str, Any] = {
    "name": "small",
    "models": ["demo"],
    "tasks": [{"name": "shapes_qa", "samples": 12}],
    "knobs": {"max_crops": [1, 4]},
}
ONE = {"knobs": {"max_crops": [4]}, "measure": ["accuracy"], "batch": {"max": 2, "audit_samples": 0}}


# --- what is imported, and when ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["vlmprof", "vlmprof.api"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    heavy = {"ray", "torch", "transformers", "pandas", "pyarrow", "matplotlib"}
    code = f"import sys, {module}; dir({module}); print(sorted({heavy} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_reading_results_loads_neither_ray_nor_torch(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "results", [trial_row({"max_crops": 4})])
    use = f"r = vlmprof.load({str(folder)!r}); r.trials, r.front(), r.status(), repr(r), r._repr_html_()"
    code = f"import sys, vlmprof; {use}; print(sorted({{'ray', 'torch', 'transformers'}} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


WATCH = """
import os, sys, vlmprof

class FirstImport:
    def find_spec(self, name, path=None, target=None):
        if name == "ray":
            print({key: os.environ.get(key) for key in ("RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")})
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, FirstImport())
vlmprof.run(sys.argv[1])
"""


def test_ray_is_imported_after_the_settings_that_it_reads_then(tmp_path: Path) -> None:
    """Token and loopback: set later they reach Ray's servers, and not the process that must know the token."""
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(SMALL))
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", WATCH, str(job)]
    told = subprocess.run(command, env=bare, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "{'RAY_AUTH_MODE': 'token', 'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0'}"


def test_ray_that_was_imported_with_open_ports_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray  # noqa: F401

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    with pytest.raises(UserError, match="set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before Python starts"):
        vlmprof.run(SMALL)
    assert not [*tmp_path.iterdir()]


def test_the_package_lists_its_names_and_has_no_others() -> None:
    assert {"run", "check", "list_trials", "load", "Results"} < set(vlmprof.__all__) <= set(dir(vlmprof))
    for name in set(vlmprof.__all__) - {"__version__"}:
        assert getattr(vlmprof, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'plan_all'"):
        vlmprof.plan_all  # type: ignore[attr-defined]  # noqa: B018


def test_no_module_has_the_name_of_a_public_function() -> None:
    """Importing a module sets its name in the package: it would take the place of the function."""
    assert {module.name for module in pkgutil.iter_modules(vlmprof.__path__)}.isdisjoint(vlmprof.__all__)


# --- a job is a path, a text or a mapping -----------------------------------------------------------------------------


def test_path_text_and_mapping_give_the_same_trials(tmp_path: Path) -> None:
    path = tmp_path / "job.yml"
    text = "# mine\n" + yaml.safe_dump(SMALL)
    path.write_text(text)
    prepared = [vlmprof.check(job) for job in (path, str(path), text, SMALL)]
    assert len({tuple(plan.id for plan in job.plans) for job in prepared}) == 1
    assert [job.submitted.text for job in prepared[:3]] == [text] * 3
    assert yaml.safe_load(prepared[3].submitted.text) == SMALL
    assert vlmprof.check(prepared[3]) is prepared[3]


def test_a_mapping_may_hold_what_numpy_and_pathlib_call_numbers_and_paths(tmp_path: Path) -> None:
    odd = {
        **SMALL,
        "models": ({"family": "demo"},),
        "tasks": [{"name": np.str_("shapes_qa"), "samples": np.int64(12)}],
        "knobs": {"max_crops": list(np.array([1, 4]))},
        "timing": {**QUICK, "precision": np.float64(0.02)},
        "storage": tmp_path / "results",
    }
    plain = {**SMALL, "timing": {**QUICK, "precision": 0.02}, "storage": str(tmp_path / "results")}
    assert vlmprof.check(odd).spec == vlmprof.check(plain).spec
    assert vlmprof.check(odd).plans == vlmprof.check(plain).plans


def test_one_list_in_two_places_is_written_twice() -> None:
    both = [1, 4]
    text = vlmprof.check({**SMALL, "knobs": {"max_crops": both, "moe_top_k": both}}).submitted.text
    assert "&" not in text and yaml.safe_load(text)["knobs"] == {"max_crops": both, "moe_top_k": both}


def test_values_that_yaml_has_no_form_for_are_all_named() -> None:
    with pytest.raises(SpecError) as caught:
        vlmprof.check({**SMALL, "name": object(), "knobs": {"max_crops": [1, {4}]}})
    assert caught.value.source == "job"
    assert [fault.field for fault in caught.value.faults] == ["name", "knobs.max_crops.1"]
    assert "got {4} of type set" in str(caught.value)


@pytest.mark.parametrize(
    "job", [{**SMALL, "nmae": "x"}, yaml.safe_dump({**SMALL, "nmae": "x"})], ids=["mapping", "text"]
)
def test_a_fault_says_where_it_lies(job: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(job if isinstance(job, str) else yaml.safe_dump(job))
    for given, source in ((job, "job"), (path, str(path))):
        with pytest.raises(SpecError, match="did you mean 'name'") as caught:
            vlmprof.check(given)
        assert str(caught.value).startswith(f"{source}: 1 fault\n")


def test_a_word_without_a_line_break_is_a_path_and_never_a_text(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    line = "{name: x, models: [demo]}"
    with pytest.raises(SpecError, match=re.escape(f"{line}: 1 fault\n  cannot be read: No such file")):
        vlmprof.check(line)
    Path("quickstart").write_text(yaml.safe_dump(SMALL))
    assert len(vlmprof.check("quickstart").plans) == 2
    with pytest.raises(TypeError, match="a path, a text or a mapping, got int"):
        vlmprof.check(3)  # type: ignore[arg-type]


def test_a_job_of_one_line_without_its_end_is_resumed(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = job_file(tmp_path, tiny_checkpoint, **ONE)
    path.write_text(json.dumps(yaml.safe_load(path.read_text())))  # YAML too, and no line break in it
    done = vlmprof.run(path, inline=True)
    assert done.folder.joinpath("job.yaml").read_text() == path.read_text()
    assert done.job().plans == vlmprof.check(path).plans


# --- run, and what it leaves ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names of the example in the docs, after it has run."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("example"))
        exec(compile(fenced(DOCS / "python-api.md", "python")[0], "python-api.md", "exec"), names)
    return names


@pytest.fixture
def results(example: dict[str, Any]) -> api.Results:
    found = example["results"]
    assert isinstance(found, api.Results)
    return found


def test_the_example_of_the_docs_runs(example: dict[str, Any], results: api.Results) -> None:
    assert example["trials"]["state"].tolist() == ["missing"] * 4
    assert len(example["front"]) >= 1 and example["unit"] == "ms"
    assert example["latency"].index.tolist().count("4") == 2 and (example["latency"] > 0).all()
    assert example["again"] == results == vlmprof.load(results.folder)
    assert results.status().finished == 4
    assert repr(results) == f"Results({results.where!r}: 4 of 4 trials finished)"


def test_a_second_run_has_nothing_to_do_wherever_it_is_started(
    results: api.Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vlmprof.run(results.job(), inline=True) == results
    assert len(starts(results.folder)) == 4
    assert Path.cwd() == tmp_path and not [*tmp_path.iterdir()]


def test_a_listed_trial_is_the_one_that_ran(example: dict[str, Any], results: api.Results) -> None:
    listed = vlmprof.list_trials(results.job())
    assert set(listed["state"]) == {"done"}
    both = listed.merge(results.trials, on="trial", suffixes=("", "_measured"))
    assert len(both) == 4
    for name in ("model", "task", "knob_max_crops", "requested_moe_top_k"):
        assert (both[name] == both[f"{name}_measured"]).all()
    assert both["vision_tokens_predicted"].tolist() == pytest.approx(both["vision_tokens"].tolist())
    assert listed.attrs["units"] == {"vision_tokens_predicted": "tokens"}
    assert set(listed.attrs["descriptions"]) == set(listed.columns)


@pytest.mark.parametrize("table", ["trials", "samples", "timings"])
def test_frames_say_what_their_columns_are(table: str, results: api.Results, tmp_path: Path) -> None:
    frame = getattr(results, table)
    assert len(frame) and set(frame.attrs["descriptions"]) == set(frame.columns)
    assert all(frame.attrs["descriptions"].values())
    fields = {"trials": schema.trials_schema(["max_crops", "moe_top_k"]), "samples": schema.SAMPLES}
    for field in fields.get(table, schema.TIMINGS):
        metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        assert frame.attrs["units"].get(field.name) == metadata.get("unit")
        assert frame.attrs["directions"].get(field.name) == metadata.get("better")
    frame.head(2).to_parquet(tmp_path / "kept.parquet")
    assert pd.read_parquet(tmp_path / "kept.parquet").attrs == frame.attrs


def test_what_the_attributes_say_of_a_latency(results: api.Results) -> None:
    attrs = results.trials.attrs
    assert attrs["units"]["latency_ms_p50"] == "ms" and attrs["directions"]["latency_ms_p50"] == "lower"
    assert attrs["directions"]["accuracy"] == "higher"
    assert attrs["intervals"]["latency_ms_p50"] == ["latency_ms_p50_low", "latency_ms_p50_high"]
    assert attrs["descriptions"]["effect_max_crops"] == DESCRIPTIONS["trials"]["effect_<name>"]


def test_the_front_is_that_of_the_command_line(results: api.Results) -> None:
    whole, front = results.front(dominated=True), results.front()
    assert len(whole) == 4 and front["on_front"].all()
    assert set(front["trial"]) == set(whole["trial"][whole["on_front"].astype(bool)])
    assert front.attrs["objectives"] == ["accuracy", "latency_ms_p50"] and front.attrs["left_out"] == {}
    json.dumps(front.attrs)
    best = results.front("accuracy")
    assert best["accuracy"].nunique() == 1 and best["accuracy"].iloc[0] == whole["accuracy"].max()
    apart = results.front(by="requested_max_crops")
    assert apart["group"].nunique() == 2
    with pytest.raises(UserError, match="did you mean 'accuracy'"):
        results.front(["acuracy"])
    with pytest.raises(UserError, match="no column named 'hots'"):
        results.front(by=["hots"])


def test_what_qualifies_a_front_comes_with_it(tmp_path: Path) -> None:
    rows = [trial_row({"max_crops": 1}, flip_rate=0.5, flip_rate_allowed=0.01), trial_row({"max_crops": 4}, host="b")]
    rows.append(trial_row({"max_crops": 9}, state="failed", error="no"))
    attrs = vlmprof.load(write_results(tmp_path / "r", rows)).front().attrs
    assert attrs["left_out"] == {"failed": 1}
    assert any("the batch size changed more answers than allowed" in said for said in attrs["beware"])


def test_a_front_of_nothing_is_empty(tmp_path: Path) -> None:
    found = vlmprof.load(write_results(tmp_path / "r", [trial_row({"max_crops": 1}, state="oom")]))
    assert found.front().empty and found.front().attrs["left_out"] == {"oom": 1}
    assert "left out: 1 oom" in found._repr_html_()


def test_a_failed_trial_raises_nothing_and_is_in_the_results(tmp_path: Path, tiny_checkpoint: Path) -> None:
    found = vlmprof.run(
        job_file(tmp_path, tiny_checkpoint, **{**ONE, "knobs": {"trouble": ["raise", "none"]}}), inline=True
    )
    (reason,) = found.status().failed.values()
    assert "the knob made the model raise" in reason
    assert sorted(found.trials["state"]) == ["done", "failed"]
    assert "the knob made the model raise" in found._repr_html_()


def test_an_interrupt_is_raised_and_the_folder_is_free_again(tmp_path: Path, tiny_checkpoint: Path) -> None:
    class Interrupting:
        def update(self, view: Any) -> None:
            if view.status.ended:
                signal.raise_signal(signal.SIGINT)

        def note(self, line: str) -> None: ...

    @contextmanager
    def display(job: Any) -> Any:
        yield Interrupting()

    path = job_file(tmp_path, tiny_checkpoint, **{**ONE, "knobs": {"max_crops": [1, 4]}})
    with pytest.raises(KeyboardInterrupt):
        vlmprof.run(path, inline=True, progress=display)
    assert sorted(read_states(tmp_path / "results").values()) == ["done", "started"]
    assert set(vlmprof.run(path, inline=True).trials["state"]) == {"done"}


def test_progress_is_shown_where_it_is_asked_for(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vlmprof.run(job_file(tmp_path, tiny_checkpoint, **ONE), inline=True)
    assert capsys.readouterr() == ("", ""), "no terminal, nothing shown"
    vlmprof.run(job_file(tmp_path, tiny_checkpoint, **{**ONE, "knobs": {"max_crops": [1]}}), inline=True, progress="on")
    shown = capsys.readouterr()
    assert shown.out == "" and "(1 of 1)" in shown.err
    with pytest.raises(UserError, match="did you mean 'on'"):
        vlmprof.run(SMALL, progress="one")  # type: ignore[arg-type]


def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlmprof.monitor.loggers.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--mlflow: not installed"):
        vlmprof.run(SMALL, inline=True, mlflow="http://127.0.0.1:1")
    with pytest.raises(SpecError):
        vlmprof.run({**SMALL, "knobs": {}}, inline=True)
    with pytest.raises(StoreError, match="holds no sweep"):
        vlmprof.load("results/small")
    assert not [*tmp_path.iterdir()]


# --- in a notebook ----------------------------------------------------------------------------------------------------


def test_a_notebook_shows_states_and_the_front_with_intervals_and_units(results: api.Results) -> None:
    html, front = results._repr_html_(), results.front()
    assert "4 of 4 trials finished" in html and "<p>4 done</p>" in html
    for header in ("max_crops", "moe_top_k", "accuracy [95 %]", "latency_ms_p50 (ms) [95 %]"):
        assert f"<th>{header}</th>" in html
    assert html.count("<tr><td>") == len(front)
    for _, row in front.iterrows():
        low, high = row["latency_ms_p50_low"], row["latency_ms_p50_high"]
        assert f"<td>{row['latency_ms_p50']:.2f} [{low:.2f}, {high:.2f}]</td>" in html


def test_nothing_in_the_tables_becomes_html_of_its_own(tmp_path: Path) -> None:
    evil = "<script>alert('&')</script>"
    rows = [
        trial_row({"max_crops": 1}, model=evil, task=evil, accuracy=0.4),
        trial_row({"max_crops": 4}, model=evil, task=evil, requested_max_crops=evil, disturbed_by=evil),
        trial_row({"max_crops": 9}, model=evil, state="failed", error=evil),
    ]
    html = vlmprof.load(write_results(tmp_path / f"<i>{evil.replace('/', '')}", rows, name=evil))._repr_html_()
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in html
    tags = {"div", "p", "b", "br", "small", "table", "caption", "tr", "th", "td"}
    assert set(re.findall(r"</?\s*(\w+)", html)) == tags
    assert set(re.findall(r"<[^>]*>", html)) <= {f"<{slash}{tag}>" for tag in tags for slash in ("", "/")}


def test_where_there_is_no_front_the_reason_is_shown_with_the_states(tmp_path: Path) -> None:
    row = trial_row({"max_crops": 1}, accuracy=None, latency_ms_p50=None)
    found = vlmprof.load(write_results(tmp_path / "r", [row]))
    with pytest.raises(UserError, match=r"no front can be drawn.*accuracy"):
        found.front()
    html = found._repr_html_()
    assert "1 done" in html and "no front can be drawn" in html and "<table>" not in html


def test_a_long_front_is_cut_in_a_notebook_and_says_so(tmp_path: Path) -> None:
    rows = [
        trial_row({"max_crops": n}, accuracy=n / 100, latency_ms_p50=float(n), accuracy_low=None, accuracy_high=None)
        for n in range(1, MOST_ROWS + 4)
    ]
    found = vlmprof.load(write_results(tmp_path / "r", rows))
    assert len(found.front()) == MOST_ROWS + 3
    html = found._repr_html_()
    assert html.count("<tr><td>") == MOST_ROWS and "and 3 more" in html
    assert "<td>0.430</td>" in html, "the best first; a value without an interval stands alone"


def test_a_folder_that_went_away_has_a_repr(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r", [trial_row({"max_crops": 1})])
    found = vlmprof.load(folder)
    folder.rename(tmp_path / "elsewhere")
    assert "holds no sweep" in repr(found)


# --- descriptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["trials", "samples", "timings"])
def test_descriptions_are_those_of_the_docs(table: Any) -> None:
    told = {name: rest[-1] for name, rest in cells(section(DOCS / "schema.md", table)).items()}
    assert DESCRIPTIONS[table] == {name: re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", said) for name, said in told.items()}
    assert describe(table, "nothing") == ""
    assert describe("trials", "knob_of_mine") == DESCRIPTIONS["trials"][f"knob_{ANY_KNOB}"]


def test_the_api_module_says_what_is_public() -> None:
    module = importlib.import_module("vlmprof.api")
    assert all(getattr(module, name).__doc__ for name in module.__all__)
