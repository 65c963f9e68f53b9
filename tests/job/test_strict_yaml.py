"""Files that are no jobs: each gets a plain sentence at once, whatever is in it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from vlmprof import api
from vlmprof.errors import SpecError
from vlmprof.job.spec import read
from vlmprof.trial.resolve import prepare

JOB = b"name: x\nmodels: [demo]\ntasks: [shapes_qa]\nknobs: {max_crops: [1]}\n"
NINE = b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)
)
WRONG = {
    "references that stand for more and more": (NINE + b"name: *a8\nmodels: *a8\n", "values or more"),
    "a list that holds itself": (b"&a [*a]\n", "values or more"),
    "nested": (b"name: " + b"[" * 5000 + b"\n", "line 1 is nested more than 50 deep"),
    "nested mappings": (b"name: " + b"{a: " * 5000 + b"\n", "nested more than 50 deep"),
    "Latin-1": (b"# caf\xe9\n" + JOB, "is not UTF-8: byte 0xe9 on line 1; save the file as UTF-8"),
    "UTF-16": (JOB.decode().encode("utf-16"), "is not UTF-8"),
    "a NUL": (b"name: x\0y\n", r"line 1 has the character U\+0000"),
    "a date that is none": (
        JOB.replace(b"name: x", b"name: 2020-13-45"),
        "reads 2020-13-45 as a date; write it in quotes",
    ),
    "a date": (JOB.replace(b"name: x", b"name: 2020-01-02"), "reads 2020-01-02 as a date"),
    "octal": (
        JOB.replace(b"[shapes_qa]", b"[{name: shapes_qa, samples: 017}]"),
        "line 3: YAML reads 017 as 15; write 15",
    ),
    "sixties": (JOB + b"timeout_s: 1:30\n", "line 5: YAML reads 1:30 as 90; write 90"),
    "sixties with a point": (JOB + b"timeout_s: 1:30.5\n", "reads 1:30.5 as 90.5"),
    "binary": (JOB + b"timeout_s: 0b101\n", "reads 0b101 as 5"),
    "a number in quotes": (
        JOB + b"timeout_s: '3600'\n",
        "timeout_s: expected a number, got the text '3600'; write it without",
    ),
    "yes for a number": (JOB + b"timeout_s: yes\n", "timeout_s: expected a number, got true"),
    "a number for a list": (JOB.replace(b"[demo]", b"5"), "models: expected a list, got 5"),
    "text for a list": (JOB.replace(b"[demo]", b"demo"), "models: expected a list, got 'demo'"),
    "a mapping for a list": (
        JOB.replace(b"[demo]", b"{family: demo}"),
        "models: expected a list, got a mapping with family",
    ),
    "a list for text": (JOB.replace(b"name: x", b"name: [x]"), "name: expected text, got a list of 1"),
    "nothing": (b"", "got nothing"),
    "a tab": (
        b"name: x\ntasks:\n\t- a\n",
        r"job\.yaml: 1 fault\n  is not YAML: a tab; .* spaces \(line 3, column 1\)",
    ),
    "two documents": (
        JOB + b"---\n" + JOB,
        r"is not YAML: another document begins; a job is one: .* \(line 5, column 1\)",
    ),
    "a list that does not end": (
        b"name: x\nmodels: [demo\n",
        r"expected ',' or '\]'.*\(line 3, column 1, while parsing a flow sequence from line 2 on\)",
    ),
    "a list": (b"- a\n- b\n", "got a list of 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_job_gets_a_sentence(name: str, tmp_path: Path) -> None:
    data, sentence = WRONG[name]
    path = tmp_path / "job.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=sentence):
        prepare(path)


def test_what_is_meant_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + JOB
        + b"base: &base {repeats: 1_0}\ntiming: *base\ntimeout_s: 0x10\n".replace(b"base: &base", b"timing:").replace(
            b"timing: *base\n", b""
        )
    )
    spec = read(path)
    assert (spec.name, spec.timing.repeats, spec.timeout_s) == ("x", 10, 16.0)


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(SpecError, match="is larger than 4 MiB"):
        prepare("/dev/zero")


MILLION = {
    "name": "million",
    "models": ["demo"],
    "tasks": ["shapes_qa"],
    "knobs": {"output_tokens": list(range(1, 1001)), "max_crops": list(range(1, 10)), "moe_top_k": list(range(1, 9))},
}


def test_a_grid_without_end_is_counted_at_once_and_never_made() -> None:
    blocks = [{"keep": 2, "policy": "nested_random", "seed": seed} for seed in range(3000)]
    knobs = {**MILLION["knobs"], "active_blocks": blocks, "output_tokens": list(range(1, 5001))}  # type: ignore[dict-item]
    for meant in (False, True):
        began = time.monotonic()
        with pytest.raises(
            SpecError, match=r"this is 1,080,000,000 trials \(.*\), more than (2,000|1,000,000): "
        ) as caught:
            api.check({**MILLION, "knobs": knobs}, allow_many=meant)
        assert time.monotonic() - began < 20
        assert "say --yes" not in str(caught.value), "that would not help"


def test_a_large_grid_is_counted_and_made_only_where_it_is_meant() -> None:
    text = yaml.safe_dump(MILLION, sort_keys=False)
    with pytest.raises(
        SpecError, match=r"72,000 trials \(output_tokens 1000 x max_crops 9 x moe_top_k 8\), more than 2,000"
    ):
        api.check(text)
    small = {**MILLION, "knobs": {"output_tokens": list(range(1, 2002))}}
    with pytest.raises(SpecError, match="2,001 trials"):
        api.check(small)
    assert len(api.check(small, allow_many=True).plans) == 2001
    assert len(api.check({**MILLION, "strategy": "one_at_a_time"}).plans) == 1018
