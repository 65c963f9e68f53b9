"""``vlmprof check`` on jobs that nobody would write: a sentence and exit code 2, soon, whatever they are."""

from __future__ import annotations

import io
import random
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from tests.job import mutations
from tests.jobs import job_file
from vlmprof import cli, registry
from vlmprof.knobs._block_choice import KEYS

SECONDS_MOST, MIB_MORE_MOST, MESSAGE_MOST = 2.0, 300, 90_000


class Asked:
    """Jobs are asked about in this process, one after another, by the real command; what was wrong with its answers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        self._file, self._monkeypatch = folder / "job.yaml", monkeypatch
        self.codes: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.slowest_s = 0.0
        self.largest = 0.0, b""
        """The most that one job added to the peak of memory, and that job."""
        self._before_mib = 0.0

    def warm(self, job: Path) -> None:
        """A valid job first: what it takes to import and to read is no fault of the others."""
        self.about(job.read_bytes())
        assert self.codes[0] == 1 and not self.wrong, self.wrong
        self.wrong.clear()
        self._before_mib = _peak_mib()

    @property
    def mib_more(self) -> float:
        return _peak_mib() - self._before_mib

    def about(self, data: bytes) -> None:
        self._file.write_bytes(data)
        before = _peak_mib()
        code, said, seconds = self._check()
        self.largest = max(self.largest, (_peak_mib() - before, data[:1500])) if self._before_mib else self.largest
        for _ in range(3):
            if seconds > SECONDS_MOST:  # what is slow is slow again; a machine that was busy is not
                code, said, again = self._check()
                seconds = min(seconds, again)
        self.codes[code] += 1
        self.slowest_s = max(self.slowest_s, seconds if self._before_mib else 0.0)
        control = {sign for sign in said if ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0} - {"\n"}
        problems = [
            *([f"exit code {code}"] if code not in (0, 2) else []),
            *([f"{seconds:.1f} s"] if self._before_mib and seconds > SECONDS_MOST else []),
            *([f"a message of {len(said):,} characters"] if len(said) > MESSAGE_MOST else []),
            *([f"control characters {control}"] if control else []),
        ]
        if problems:
            self.wrong.append(f"{'; '.join(problems)}: {data[:300]!r}\n{said[-800:]}")

    def _check(self) -> tuple[int, str, float]:
        written, began = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n"), time.monotonic()
        code: object = 0
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["vlmprof", "check", "job.yaml"])
            patch.setattr(sys, "stdout", written)
            patch.setattr(sys, "stderr", written)
            try:
                cli.main()
            except SystemExit as ended:
                code = ended.code or 0
            except Exception:
                code = 1
                written.write(traceback.format_exc())
        seconds = time.monotonic() - began
        written.flush()
        assert isinstance(written.buffer, io.BytesIO)
        return int(str(code)), written.buffer.getvalue().decode(), seconds


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture
def asked(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked(tmp_path, monkeypatch)
    found.warm(job_file(tmp_path, tiny_checkpoint))
    return found


def judge(asked: Asked, jobs: Iterable[bytes], report: Callable[[str, object], None]) -> None:
    for job in jobs:
        asked.about(job)
    counts = f"{sum(asked.codes.values())} jobs, {asked.codes[0]} sound"
    said = f"{counts}, slowest {asked.slowest_s:.2f} s, {asked.mib_more:.0f} MiB more"
    report("fuzz", said)
    print(said)
    assert not asked.wrong, f"{len(asked.wrong)} wrong, {said}\n" + "\n\n".join(asked.wrong[:10])
    assert asked.mib_more <= MIB_MORE_MOST, f"{said}; most of it for {asked.largest}"


def test_each_kind_of_hostile_job_gets_a_sentence(asked: Asked, record_property: Callable[[str, object], None]) -> None:
    hostile = sorted(mutations.HOSTILE.glob("*.yaml"))
    assert len(hostile) >= 8
    judge(asked, [path.read_bytes() for path in hostile], record_property)
    assert asked.codes == {0: 1, 2: len(hostile)}


def test_every_token_in_the_place_of_every_kind_of_value(
    asked: Asked, record_property: Callable[[str, object], None]
) -> None:
    """One text with all of them would be refused for the first: a few dozen jobs, each with one."""
    places = (
        "timeout_s: {}",
        "storage: {}",
        "models: [{{family: demo, checkpoint: {}}}]",
        "knobs: {{max_crops: [{}]}}",
    )
    base = "name: x\nmodels: [demo]\ntasks: [shapes_qa]\nknobs: {max_crops: [1]}\n"
    drop = {
        place: "".join(line for line in base.splitlines(True) if line.split(":")[0] != place.split(":")[0])
        for place in places
    }
    pairs = [(token, places[number % len(places)]) for number, token in enumerate(mutations.TOKENS)]
    jobs = (drop[place] + place.format(token) + "\n" for token, place in pairs)
    judge(asked, (job.encode("utf-8", "surrogatepass") for job in jobs), record_property)


@pytest.mark.parametrize(
    "count",
    [40, pytest.param(2000, marks=[pytest.mark.exhaustive, pytest.mark.timeout(1800)])],
)
def test_mutated_files_of_jobs(asked: Asked, count: int, record_property: Callable[[str, object], None]) -> None:
    judge(asked, mutations.mutated(count, seed=count), record_property)


@pytest.mark.parametrize(
    "count",
    [20, pytest.param(500, marks=[pytest.mark.exhaustive, pytest.mark.timeout(1800)])],
)
def test_mappings_that_look_like_jobs(asked: Asked, count: int, record_property: Callable[[str, object], None]) -> None:
    chance, made = random.Random(count), list[bytes]()

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(job=mutations.jobs)
    def make(job: dict) -> None:
        made.append(mutations.as_yaml(job, chance))

    make()
    judge(asked, made, record_property)


LISTS = {
    "numbers": ("max_crops", str),
    "texts": ("max_crops", lambda number: f"x{number}"),
    "lists": ("active_blocks", lambda number: f"[{number}]"),
    "all sound": ("output_tokens", lambda number: str(number + 1)),
}


@pytest.mark.parametrize("kind", LISTS)
def test_thirty_thousand_values_of_a_knob_are_looked_at_in_linear_time(asked: Asked, kind: str) -> None:
    knob, written = LISTS[kind]
    many = ", ".join(map(written, range(30_000 if kind != "lists" else 20_000)))
    asked.about(f"name: x\nmodels: [demo]\ntasks: [shapes_qa]\nknobs: {{{knob}: [{many}]}}\n".encode())
    assert not asked.wrong, asked.wrong
    assert asked.codes[2] == 1


@pytest.mark.parametrize("section", ["models", "tasks", "knobs", "extra"])
def test_sections_of_thousands_of_entries(asked: Asked, section: str) -> None:
    many = [f"x{number}" for number in range(20_000)]
    job = {"name": "x", "models": ["demo"], "tasks": ["shapes_qa"], "knobs": {"max_crops": [1]}}
    if section == "extra":
        job |= dict.fromkeys(many, 1)
    else:
        job[section] = {name: [1] for name in many} if section == "knobs" else many
    asked.about(yaml.dump(job, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)).encode())
    assert not asked.wrong, asked.wrong
    assert asked.codes[2] == 1


ODD = (
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "x",
    "''",
    "[]",
    "{}",
    "[null]",
    "[x]",
    "[[1]]",
    "[{a: 1}]",
    "{a: [1]}",
    "9223372036854775807",
)
CHOICES = {
    "policy": (*ODD, "prefix", "nested_random", "legacy_random", "importance", "drop"),
    **dict.fromkeys(("keep", "seed", "table", "sha256", "drop"), ODD),
}


def odd_values(knob: str) -> Iterator[str]:
    """Values of a knob as YAML: of all kinds, and for those that are mappings of all kinds for each of their keys."""
    yield from ODD
    if knob == "active_blocks":
        for policy, keys in KEYS.items():
            whole = {key: "2" for key in keys} | {"policy": policy}
            for key in keys:
                yield from (as_flow({**whole, key: odd}) for odd in CHOICES[key])
        yield from (as_flow({"keep": "2", "policy": odd}) for odd in CHOICES["policy"])


def as_flow(pairs: dict[str, str]) -> str:
    return f"{{{', '.join(f'{key}: {value}' for key, value in pairs.items())}}}"


@pytest.mark.parametrize(
    "knob",
    [
        pytest.param(name, marks=[] if name == "active_blocks" else [pytest.mark.exhaustive])
        for name in registry.builtin("knobs")
    ],
)
def test_every_kind_of_value_for_a_knob(
    asked: Asked, knob: str, record_property: Callable[[str, object], None]
) -> None:
    job = "name: x\nmodels: [demo]\ntasks: [shapes_qa]\nknobs: {{{}: [{}]}}\n"
    judge(asked, (job.format(knob, value).encode() for value in odd_values(knob)), record_property)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "field", ["models", "tasks", "timing", "batch", "resources", "chunk", "measure", "labels", "columns"]
)
def test_every_kind_of_value_for_a_section(
    asked: Asked, field: str, record_property: Callable[[str, object], None]
) -> None:
    outer = {"labels": "resources: {{labels: {}}}", "columns": "tasks: [{{name: local, columns: {}}}]"}
    place = outer.get(field, f"{field}: {{}}")
    lines = {"models": "models: [demo]", "tasks": "tasks: [shapes_qa]"}
    rest = "".join(f"{line}\n" for name, line in lines.items() if not place.startswith(name))
    written = (value for odd in ODD for value in (odd, f"[{odd}]", f"{{name: {odd}}}", f"[{{family: {odd}}}]"))
    jobs = (f"name: x\nknobs: {{max_crops: [1]}}\n{rest}{place.format(value)}\n".encode() for value in written)
    judge(asked, jobs, record_property)
