"""Files that are no jobs: each gets a plain sentence at once, whatever is in it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml

from vlmprof import api
from vlmprof.errors import SpecError
from vlmprof.job import strict_yaml
from vlmprof.job.spec import read
from vlmprof.trial.resolve import prepare

JOB = b"name: x\nmodels: [demo]\ntasks: [shapes_qa]\nknobs: {max_crops: [1]}\n"
NINE = b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)
)
WRONG = {
    "references that stand for more and more": (NINE + b"name: *a8\nmodels: *a8\n", "values; a job has 50,000"),
    "a list that holds itself": (b"&a [*a]\n", "line 1 begins a value that holds itself"),
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
    "yes for true": (
        JOB + b"batch: {maximize: yes}\n",
        "line 5: YAML reads yes as true; write true, or 'yes' in quotes",
    ),
    "true for a number": (JOB + b"timeout_s: true\n", "timeout_s: expected a number, got true"),
    "infinity": (JOB + b"timeout_s: .inf\n", r"line 5: \.inf is no finite number"),
    "infinity by its exponent": (JOB + b"timeout_s: 1e999\n", "line 5: 1e999 is no finite number"),
    "a line in a number": (JOB + b"timeout_s: 1_000\n", "reads 1_000 as 1000; write 1000"),
    "octal of YAML 1.2": (JOB + b"timeout_s: 0o17\n", "reads 0o17 as 15"),
    "a huge integer": (JOB + b"timeout_s: " + b"9" * 4000 + b"\n", "a number of 4,000 digits; at most"),
    "a large integer": (JOB + b"timeout_s: " + b"9" * 20 + b"\n", "99999999999999999999 is too large; at most"),
    "a tag": (JOB + b"timeout_s: !!int '5'\n", "line 5 has the tag tag:yaml.org,2002:int; a job has no tags"),
    "a merge": (JOB + b"timing: {<<: {repeats: 3}}\n", "line 5 has <<, a merge, which YAML 1.2 does not have"),
    "a key that is no text": (JOB + b"1: 2\n", "line 5 has 1 for a key; a key is text"),
    "a list for a key": (JOB + b"[a]: 2\n", "line 5 has a list for a key"),
    "an escaped NUL": (JOB + b'storage: "a\\0b"\n', r"line 5 has the character U\+0000, which no name and no path has"),
    "an escape sequence": (JOB + b'storage: "\\e[31m"\n', r"line 5 has the character U\+001B"),
    "half a character": (JOB + b'storage: "\\ud800"\n', "invalid Unicode character escape"),
    "a text without end": (
        JOB + b"storage: " + b"x" * 9000 + b"\n",
        "line 5 has a text of 9,000 characters; at most 4,096",
    ),
    "references that nest": (
        b"a0: &a0 [1]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (n, n, n - 1) for n in range(1, 200)),
        "levels; a job has 50 at most",
    ),
    "a path that no file system has": (
        JOB + b"storage: " + b"x" * 300 + b"\n",
        "storage: expected a path that a file system",
    ),
    "a home of nobody": (
        JOB.replace(b"[demo]", b"[{family: demo, checkpoint: ~nobody-here/x}]"),
        "there is no home folder '~nobody-here' here",
    ),
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
        + b"base: &base {repeats: 10}\ntiming: *base\ntimeout_s: 1e2\n".replace(b"base: &base", b"timing:").replace(
            b"timing: *base\n", b""
        )
    )
    spec = read(path)
    assert (spec.name, spec.timing.repeats, spec.timeout_s) == ("x", 10, 100.0)


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(SpecError, match="a device; a job is a file"):
        prepare("/dev/zero")


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "job.yaml")
    with pytest.raises(SpecError, match="a device; a job is a file"):
        prepare(tmp_path / "job.yaml")


def test_a_file_that_is_larger_than_any_job_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"#" * 2**21)
    with pytest.raises(SpecError, match="is larger than 1 MiB"):
        prepare(tmp_path / "job.yaml")


def test_a_mapping_means_what_its_values_are() -> None:
    """Also where a text looks like a number of YAML 1.2, which PyYAML writes without quotes."""
    for text in ("1e5", "0o17", "017", "yes", "1:30", "2020-01-02", "~", "1_0", ".inf"):
        assert strict_yaml.parse(strict_yaml.written({"value": text})) == ({"value": text}, [])


def test_what_was_given_is_shortened_in_messages() -> None:
    job = {"name": "x", "models": ["m" * 4000] * 50, "tasks": [["t" * 4000] * 40], "knobs": {"k" * 4000: ["v" * 4000]}}
    with pytest.raises(SpecError) as caught:
        prepare(job)
    assert len(str(caught.value)) < 70_000
    assert "m" * 121 not in str(caught.value)


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
