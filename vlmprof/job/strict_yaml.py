"""YAML without its traps: no tags that run code, no key given twice. The only module that reads YAML.

A job comes as the path of a file, as text or as a mapping; ``job_text`` makes one text of all three, so that they are
checked by the same code and mean the same.
"""

from __future__ import annotations

import numbers
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import yaml

from vlmprof.errors import Fault, SpecError, UserError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobText:
    """A job as YAML, and where it came from."""

    text: str
    """As its author wrote it; a mapping written as YAML."""
    source: str
    """What messages call it: the path of its file, or ``job``."""


JobSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | JobText
"""How callers may give a job. A ``str`` with a line break is the text of a job; any other is the path of a file."""
UNNAMED = "job"


MOST_BYTES = 2**22
MOST_VALUES = 100_000
"""In a job, with every reference (``*name``) written out."""
DEEPEST = 50
_PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")


@final
class _Loader(yaml.SafeLoader):
    """SafeLoader that notices what YAML lets pass and no author means: a key given twice, 017 for 15, 1:30 for 90, a
    date for a name.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.faults: list[Fault] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in seen:
                self.faults.append(Fault(field=str(key), problem=f"given twice, on lines {seen[key]} and {line}"))
            seen[key] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        """An integer as it is written, in tens or as 0x."""
        value = int(super().construct_yaml_int(node))
        if not _PLAIN_INT.match(node.value):
            self._refuse(
                node, f"YAML reads {node.value} as {value}; write {value}, or '{node.value}' in quotes as text"
            )
        return value

    def construct_yaml_float(self, node: Any) -> float:
        """A number that is not an integer; 1:30.5 is none."""
        value = float(super().construct_yaml_float(node))
        if ":" in node.value:
            self._refuse(
                node, f"YAML reads {node.value} as {value}; write {value}, or '{node.value}' in quotes as text"
            )
        return value

    def construct_yaml_timestamp(self, node: Any) -> Any:
        """Text: a job has no dates."""
        self._refuse(node, f"YAML reads {node.value} as a date; write it in quotes, '{node.value}'")
        return str(node.value)

    def _refuse(self, node: Any, problem: str) -> None:
        self.faults.append(Fault(field=f"line {node.start_mark.line + 1}", problem=problem))


for _tag in ("int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", getattr(_Loader, f"construct_yaml_{_tag}"))


def job_text(job: JobSource) -> JobText:
    """The job as text; ``JobSource`` says which ``str`` is a path and which is a text.

    Raises:
        SpecError: the file cannot be read, or the mapping holds values that YAML has no form for; all are named.
        TypeError: it is neither a path nor a text nor a mapping.
    """
    if isinstance(job, JobText):
        return job
    if isinstance(job, Mapping):
        faults: list[Fault] = []
        plain = _plain(job, "", faults)
        if faults:
            raise SpecError(UNNAMED, faults)
        return JobText(text=written(plain), source=UNNAMED)
    if isinstance(job, str) and "\n" in job:
        return JobText(text=job, source=UNNAMED)
    if not isinstance(job, str | os.PathLike):
        raise TypeError(f"a job is a path, a text or a mapping, got {type(job).__name__}")
    path = Path(job)
    try:
        return JobText(text=_read_text(path), source=str(path))
    except OSError as error:
        raise SpecError(str(path), [Fault(field="", problem=f"cannot be read: {error.strerror}")]) from None
    except ValueError as error:
        raise SpecError(str(path), [Fault(field="", problem=str(error))]) from None


def _read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not text in UTF-8, or larger than any job.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES // 2**20} MiB, which no job is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = data[: error.start].count(b"\n") + 1, data[error.start]
        raise ValueError(f"is not UTF-8: byte 0x{byte:02x} on line {line}; save the file as UTF-8") from None


def _plain(value: Any, field: str, faults: list[Fault]) -> Any:
    """A value in the types that YAML has, also where numpy or ``pathlib`` have their own; adds a fault where none fits.

    Every list and mapping is copied: one that stands in two places would be written as an anchor and a reference to it.
    """
    if isinstance(value, Mapping):
        return {_plain(key, field, faults): _plain(item, _below(field, key), faults) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [_plain(item, _below(field, place), faults) for place, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    for accepted, plain in _SCALARS:
        if isinstance(value, accepted):
            return plain(value)
    expected = "expected text, a number, true, false, null, a list or a mapping"
    faults.append(Fault(field=field, problem=f"{expected}, got {value!r} of type {type(value).__name__}"))
    return None


_SCALARS: Sequence[tuple[type, Any]] = (
    (str, str.__str__),
    (os.PathLike, os.fspath),
    (numbers.Integral, int),
    (numbers.Real, float),
)


def _below(field: str, key: object) -> str:
    return f"{field}.{key}" if field else str(key)


def read(path: Path) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The mapping in a file, or None, and what is wrong with it as YAML.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not text in UTF-8, or larger than any job.
    """
    return parse(_read_text(path))


def parse(text: str) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The mapping in a text, or None, and what is wrong with it as YAML."""
    try:
        _require_flat(text)
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        where = f"line {line} has the character U+{int(error.character):04X}, which YAML does not allow"
        return None, [Fault(field="", problem=f"is not YAML: {where}; remove it")]
    except (yaml.YAMLError, ValueError) as error:
        return None, [_not_yaml(error)]
    try:
        node = loader.get_single_node()
        _require_few(node)
        raw = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, TypeError, ValueError) as error:  # TypeError: an unhashable key
        return None, [*loader.faults, _not_yaml(error)]
    finally:
        loader.dispose()
    if not isinstance(raw, dict):
        expected = "a job is a mapping with at least name, models, tasks and knobs"
        return None, [Fault(field="", problem=f"{expected}; got {shown(raw)}")]
    return raw, loader.faults


def parse_value(text: str) -> Any:
    """A single value, as it would be read in a job.

    Raises:
        UserError: it is not YAML, or means something else than is written.
    """
    raw, faults = parse(f"value: {text}\n")
    if raw is None or faults:
        raise UserError(f"'{text}': {'; '.join(map(str, faults))}")
    return raw.get("value")


def shown(value: Any) -> str:
    """A value in a message, in the words of YAML and not too long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(str, list(value)[:4]))}{', ...' if len(value) > 4 else ''}"
    if isinstance(value, list | tuple):
        return "an empty list" if not value else f"a list of {len(value)}"
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _not_yaml(error: Exception) -> Fault:
    """The reason with its line and column; the parser calls every text "<unicode string>"."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return Fault(field="", problem=f"is not YAML: {' '.join(str(error).split())}")
    problem, mark = error.problem or error.context or "", error.problem_mark or error.context_mark
    at = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if plain := next((words for sign, words in _IN_WORDS.items() if sign in problem), ""):
        return Fault(field="", problem=f"is not YAML: {plain} ({at})")
    begun = f" from line {error.context_mark.line + 1} on" if error.context_mark else ""
    around = f", {error.context}{begun}" if error.context and error.problem else ""
    return Fault(field="", problem=f"is not YAML: {problem} ({at}{around})")


_IN_WORDS = {
    "found character '\\t'": "a tab; indent and separate with spaces",
    "found another document": "another document begins; a job is one: remove the line '---', or split the file",
}
"""What the parser's reason contains -> the same in plain words, with how to mend it."""


def _require_flat(text: str) -> None:
    """Raise a ValueError where lists and mappings are nested deeper than any job's; reading on would not end well."""
    depth, events = 0, yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # C: a tenth of the time
    with suppress(yaml.YAMLError):  # whoever reads it next reports it, in words that do not depend on C
        for event in events:
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ValueError(f"line {line} is nested more than {DEEPEST} deep, which no job is")


def _require_few(node: Any) -> None:
    """Raise a ValueError where references stand for more values than any job has, or for themselves."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MOST_VALUES + 1  # where it is met again inside itself
            if isinstance(node, yaml.MappingNode):
                sizes[id(node)] = 1 + sum(size(key) + size(value) for key, value in node.value)
            elif isinstance(node, yaml.SequenceNode):
                sizes[id(node)] = 1 + sum(map(size, node.value))
            else:
                sizes[id(node)] = 1
        return sizes[id(node)]

    if node is not None and (values := size(node)) > MOST_VALUES:
        least = f"with its references (*name) written out it has {values:,} values or more"
        raise ValueError(f"{least}; a job has {MOST_VALUES:,} at most")


def written(raw: dict[str, Any]) -> str:
    """The same mapping as a file that ``read`` gives back; comments are not kept."""
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
