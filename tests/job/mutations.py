"""Jobs that nobody would write: files of jobs, changed at random, and mappings made up from the job's own keys."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
HOSTILE = Path(__file__).parent / "hostile"
"""One small file for each kind of fault that was met."""

TOKENS = (
    *("017", "0o17", "0b11", "1:30", "12:30:45", "1_000", "yes", "No", "on", ".inf", "-.inf", ".nan", "1e5", "1e999"),
    *("'3600'", '"4"', "true", "~", "", "-1", "0", "1.5", "9" * 30, "9" * 5000, "0x" + "f" * 5000, "-" + "9" * 19),
    *("2020-13-45", "2001-12-14t21:59:43.10-05:00", "2020-01-01", "<<", "=", "<<: {a: 1}", "&a [*a]", "&a {b: *a}"),
    *("*a", "&a x", "!!int '5'", "!!python/object/apply:os.system [x]", "!!binary aGk=", "!!set {a}", "!!omap [a: 1]"),
    *("!x y", "? [a]\n: b", "{[a]: b}", "{1: 2}", "{~: 3}", "[]", "{}", "[[]]", "[" * 60 + "]" * 60, "[" * 3000),
    *('"\\0"', '"\\e[31m"', '"\\ud800"', '"\\x9b"', '"\\u202e"', "\0", "\x1b]0;x\x07", "\ufeff", "\x85", "\u2028"),
    *("%", "@", "a" * 300, "a/" * 3000, "x" * 100_000, "/dev/zero", "/proc/self/mem", "/dev/null", "~nobody-here/x"),
    *("..", "/", "/etc/shadow", "file:///etc", "s3://", "s3://b/%2e%2e/x", "https://x/y", "a[/b]c", "m[v2]", "$x^{"),
    *("\xe9", "name: x", "- a", "---", "...", "# x", "|", ">\n  x", "\t", "'", '"', "[", "{", "}", "]", ",", ":"),
    *("nothing", "demo", "shapes_qa", "molmo", "transformers_vlm", "local", "text_vqa", "auto", "importance"),
    *("{keep: 2, policy: prefix}", "{keep: 1.5}", "{n: 5}", "[1, 1]", "[a, {b: [c]}]"),
)


def files() -> list[bytes]:
    """All that mutations begin from."""
    return [path.read_bytes() for path in (*sorted((ROOT / "jobs").glob("*.yaml")), *sorted(HOSTILE.glob("*.yaml")))]


def mutated(count: int, seed: int) -> Iterator[bytes]:
    """Jobs with one to four changes each."""
    chance, origins = random.Random(seed), files()
    for _ in range(count):
        data = chance.choice(origins)
        for _ in range(chance.choice((1, 1, 2, 3, 4))):
            data = chance.choice(WAYS)(data, chance, origins)
        yield data


def _token(chance: random.Random) -> bytes:
    return chance.choice(TOKENS).encode("utf-8", "surrogatepass")


def _place(data: bytes, chance: random.Random) -> int:
    return chance.randint(0, len(data))


def _other_bytes(data: bytes, chance: random.Random, origins: list[bytes]) -> bytes:
    at = _place(data, chance)
    return data[:at] + chance.randbytes(chance.randint(1, 4)) + data[at + chance.randint(0, 4) :]


def _cut(data: bytes, chance: random.Random, origins: list[bytes]) -> bytes:
    first, last = sorted((_place(data, chance), _place(data, chance)))
    return data[:first] + data[last:]


def _again(data: bytes, chance: random.Random, origins: list[bytes]) -> bytes:
    at = _place(data, chance)
    return data[:at] + data[at : at + chance.randint(1, 60)] * chance.choice((2, 50, 3000)) + data[at:]


def _inserted(data: bytes, chance: random.Random, origins: list[bytes]) -> bytes:
    at = _place(data, chance)
    return data[:at] + _token(chance) + data[at:]


def _lines_swapped(data: bytes, chance: random.Random, origins: list[bytes]) -> bytes:
    lines = data.splitlines(keepends=True)
    chance.shuffle(lines)
    return b"".join(lines)


def _spliced(data: bytes, chance: random.Random, origins: list[bytes]) -> bytes:
    other = chance.choice(origins)
    return data[: _place(data, chance)] + other[_place(other, chance) :]


def _other_value(data: bytes, chance: random.Random, origins: list[bytes]) -> bytes:
    """Sound YAML with a token in the place of one of its values, or of a key."""
    try:
        job = yaml.load(data, Loader=yaml.BaseLoader) if len(data) < 20_000 else None  # all texts: no constructor
    except (yaml.YAMLError, ValueError, RecursionError):
        job = None
    if not isinstance(job, dict):
        return _inserted(data, chance, origins)
    mark = "instead-of-this"
    inside: Any = job
    while isinstance(inside, dict | list) and inside:
        key = chance.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        if not isinstance(inside[key], dict | list) or chance.random() < 0.3:
            if isinstance(inside, dict) and chance.random() < 0.2:
                inside[mark] = inside.pop(key)
            elif isinstance(inside, list) and chance.random() < 0.2:
                inside[:] = [*inside, mark] * chance.choice((1, 2, 3000))
            else:
                inside[key] = mark
            break
        inside = inside[key]
    return yaml.safe_dump(job, sort_keys=False).replace("'", "").encode().replace(mark.encode(), _token(chance))


def _another_key(data: bytes, chance: random.Random, origins: list[bytes]) -> bytes:
    key = chance.choice(KEYS)
    return data + f"\n{key}: ".encode() + _token(chance) + b"\n"


WAYS: tuple[Callable[[bytes, random.Random, list[bytes]], bytes], ...] = (
    *(_other_value, _other_value, _other_value, _another_key, _another_key),
    *(_other_bytes, _cut, _again, _inserted, _inserted, _lines_swapped, _spliced),
)
KEYS = (
    *(
        "name",
        "models",
        "tasks",
        "knobs",
        "strategy",
        "engine",
        "preprocess",
        "measure",
        "timing",
        "batch",
        "resources",
    ),
    *(
        "chunk",
        "timeout_s",
        "storage",
        "family",
        "checkpoint",
        "revision",
        "dtype",
        "samples",
        "seed",
        "stratify",
        "path",
    ),
    *(
        "metric",
        "columns",
        "index_from",
        "failed_samples_allowed",
        "batch_size",
        "output_tokens",
        "labels",
        "max_crops",
    ),
    *(
        "moe_top_k",
        "active_blocks",
        "vision_tokens",
        "size",
        "max",
        "n",
        "keep",
        "policy",
        "table",
        "sha256",
        "answers",
    ),
)

SHORT = [token for token in TOKENS if len(token) < 400]
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(SHORT),
    st.sampled_from(("demo", "molmo", "transformers_vlm", "shapes_qa", "local", "auto", "accuracy", "latency", "grid")),
)
_keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=8), st.sampled_from(SHORT))
_values: st.SearchStrategy[Any] = st.deferred(
    lambda: st.one_of(_scalars, _scalars, st.lists(_values, max_size=4), st.dictionaries(_keys, _values, max_size=4))
)
_near = st.fixed_dictionaries(
    {
        "name": st.one_of(st.just("x"), _values),
        "models": st.lists(st.one_of(st.just("demo"), st.dictionaries(_keys, _values, max_size=4)), max_size=3),
        "tasks": st.lists(st.one_of(st.just("shapes_qa"), st.dictionaries(_keys, _values, max_size=4)), max_size=3),
        "knobs": st.dictionaries(_keys, st.lists(_values, max_size=4), max_size=4),
    },
    optional={key: _values for key in KEYS[4:14]},
)
jobs = st.one_of(_near, st.dictionaries(_keys, _values, max_size=6))
"""Mappings that look like jobs, more or less."""


def as_yaml(job: dict[str, Any], chance: random.Random) -> bytes:
    """The mapping as YAML; one in three times with the texts that are in quotes taken out of them."""
    text = yaml.safe_dump(job, allow_unicode=True, default_flow_style=chance.choice((True, False, None)))
    return (text.replace("'", "") if chance.random() < 1 / 3 else text).encode("utf-8", "surrogatepass")
