"""What an error says reaches the ledger and the tables without the secrets of the environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.builders import trial_row
from tests.conftest import SECRET, SECRETS
from tests.sweep.secret_files import files_with
from vlmprof.secret_text import SHAPES, secret_values, without_secrets
from vlmprof.store.attempts import Chunk
from vlmprof.store.collector import Collector, TrialResult
from vlmprof.store.ledger import read

KEY = "Zq81-canary-77xT"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    values = {"DB_PASS": f"{KEY}-1", "AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={KEY}", "PROXY_AUTH": f"{KEY}-11"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


def test_what_a_message_quotes_is_replaced_by_what_it_is(keys: dict[str, str]) -> None:
    said = f"407 for http://me:{KEY}@proxy:80 with {keys['DB_PASS']} and {keys['PROXY_AUTH']}; AKIAABCDEFGHIJKLMNOP"
    told = without_secrets(said)
    assert KEY not in told and "AKIA" not in told and "407 for http" in told and "proxy:80" in told
    assert "<the value of DB_PASS>" in told and "<the value of PROXY_AUTH>" in told and "<a key of AWS>" in told
    assert without_secrets("CUDA error: device-side assert in sk_buff") == "CUDA error: device-side assert in sk_buff"


def test_a_name_of_every_kind_is_known_or_its_value_has_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {name: value.replace(SECRET, KEY) for name, value in SECRETS.items()}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    known = dict(secret_values())
    shaped = {name for name, value in values.items() if any(re.search(shape, value) for shape in SHAPES.values())}
    unknown = set(values) - set(known) - shaped
    assert unknown == {"NETRC"}, "the name of a file"


def test_no_error_takes_a_secret_into_the_results(tmp_path: Path, keys: dict[str, str]) -> None:
    said = f"ProxyError: cannot connect to https://me:{KEY}@proxy, {keys['DB_PASS']}"
    collector = Collector(tmp_path / "results", "mine", wait_s=1)
    collector.open_run(["x"], {"name": "mine"})
    row = {**trial_row({"max_crops": 4}), "trial": "x", "error": said}
    start = collector.begin("x")
    sample = {"sample": "1", "error": said}
    collector.keep(Chunk(trial="x", attempt=start.attempt, number=1, rows=(sample,), seconds=1.0, peak_bytes=1,
                         made_on={}, software=""))  # fmt: skip
    collector.dying("x", start.attempt, said)
    collector.died("x")
    collector.finish(
        TrialResult(
            trial="x",
            knobs=("max_crops",),
            state="failed",
            row=row,
            samples=({**sample, "trial": "x"},),
            trace=f"Trace: {said}",
        )
    )
    collector.close()
    lines = list(read(tmp_path / "results"))
    assert any("<the value of DB_PASS>" in str(line.get("trace")) for line in lines)
    for number in range(10):
        (tmp_path / "results" / f"{number}.txt").write_text("so that there is enough to look at")
    assert not files_with(KEY, tmp_path / "results")
