"""YAML without its traps: no tags that run code, no key given twice. The only module that reads YAML.

A job comes as the path of a file, as text or as a mapping; ``job_text`` makes one text of all three, so that they are
checked by the same code and mean the same.
"""

from __future__ import annotations

import itertools
import math
import numbers
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import yaml

from vlmprof.errors import Fault, SpecError, UserError, shortened


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


MOST_BYTES = 2**20
MOST_VALUES = 50_000
"""In a job, with every reference (``*name``) written out."""
DEEPEST = 50
LONGEST = 4096
"""Characters of one text; Linux has no longer path."""
LARGEST = 2**63 - 1
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
_OCTAL = re.compile("0o[0-7]+$")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that no name has: they come as escapes in double quotes, and a terminal or a file system obeys them."""
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C where PyYAML was built with it: a tenth of the time."""
READ_TWICE = 2**16
"""So long a text may be for the slow parser to read it too, whose reasons are in better words."""


@final
class _OneMeaning(_Parser):  # type: ignore[misc]
    """SafeLoader that notices what YAML lets pass and no author means: a key given twice, and what YAML 1.1
    and 1.2 read as different values: 017, 1:30, yes, a date.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.faults: list[Fault] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise ValueError(f"line {line} has {_key_that_is_no_text(key_node)} for a key; a key is text")
            if key_node.value in seen:
                problem = f"given twice, on lines {seen[key_node.value]} and {line}"
                self.faults.append(Fault(field=str(key_node.value), problem=problem))
            seen[key_node.value] = line
        return dict(super().construct_mapping(node, deep))

    def construct_yaml_bool(self, node: Any) -> bool:
        """True or false, as it is written."""
        value = bool(super().construct_yaml_bool(node))
        if node.value.lower() not in ("true", "false"):
            self._refuse(node, str(value).lower())
        return value

    def construct_yaml_int(self, node: Any) -> int:
        """An integer as it is written, in tens or as 0x."""
        if len(node.value) > LONGEST // 2:
            self._refuse_line(node, f"a number of {len(node.value):,} digits; at most {LARGEST} is allowed")
            return 0
        octal = _OCTAL.match(node.value)
        value = int(node.value[2:], 8) if octal else int(super().construct_yaml_int(node))
        if not _INT.fullmatch(node.value):
            self._refuse(node, str(value))
        if abs(value) > LARGEST:
            self._refuse_line(node, f"{shortened(node.value, 40)} is too large; at most {LARGEST} is allowed")
            return 0
        return value

    def construct_yaml_float(self, node: Any) -> float:
        """A number that is not an integer; 1:30.5 is none, and neither is .inf."""
        value = float(super().construct_yaml_float(node))
        if not math.isfinite(value):
            self._refuse_line(node, f"{shortened(node.value, 40)} is no finite number")
            return 0.0
        if not _FLOAT.fullmatch(node.value):
            self._refuse(node, str(value))
        return value

    def construct_yaml_timestamp(self, node: Any) -> Any:
        """Text: a job has no dates."""
        written = shortened(node.value, 40)
        self._refuse_line(node, f"YAML reads {written} as a date; write it in quotes, '{written}'")
        return str(node.value)

    def _refuse(self, node: Any, value: str) -> None:
        written = shortened(node.value, 40)
        read_as = f"YAML reads {written} as {shortened(value, 40)}"
        self._refuse_line(node, f"{read_as}; write {shortened(value, 40)}, or '{written}' in quotes as text")

    def _refuse_line(self, node: Any, problem: str) -> None:
        self.faults.append(Fault(field=f"line {node.start_mark.line + 1}", problem=problem))


for _tag in ("bool", "int", "float", "timestamp"):
    _OneMeaning.add_constructor(f"tag:yaml.org,2002:{_tag}", getattr(_OneMeaning, f"construct_yaml_{_tag}"))
_OneMeaning.add_constructor("tag:yaml.org,2002:value", _OneMeaning.construct_yaml_str)  # a plain =


@final
class _Writer(yaml.SafeDumper):
    """Puts in quotes what ``_OneMeaning`` would read as a number."""


for _kind in (_OneMeaning, _Writer):
    # Of YAML 1.2, and no numbers for PyYAML.
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
    _kind.add_implicit_resolver("tag:yaml.org,2002:int", _OCTAL, ["0"])


def _key_that_is_no_text(node: Any) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
    return "<<, a merge, which YAML 1.2 does not have," if node.tag.endswith(":merge") else shortened(node.value, 40)


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
    if path.exists() and not path.is_dir() and not path.is_file():
        raise ValueError("is a pipe, a socket or a device; a job is a file")  # a pipe would be waited for
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
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):
        where = f"line {text[: found.start()].count(chr(10)) + 1} has the character U+{ord(found.group()):04X}"
        return None, [Fault(field="", problem=f"is not YAML: {where}, which YAML does not allow; remove it")]
    loader = None
    try:
        _require_plain(text)
        loader = _OneMeaning(text)
        node = loader.get_single_node()
        if node is not None:
            _require_few(node)
        raw = loader.construct_document(node) if node is not None else None
    except yaml.YAMLError as error:
        return None, [*(loader.faults if loader else ()), _not_yaml(_in_better_words(text) or error)]
    except ValueError as error:
        return None, [*(loader.faults if loader else ()), _not_yaml(error)]
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(raw, dict):
        expected = "a job is a mapping with at least name, models, tasks and knobs"
        return None, [*loader.faults, Fault(field="", problem=f"{expected}; got {shown(raw)}")]
    return raw, loader.faults


def _in_better_words(text: str) -> yaml.YAMLError | None:
    """The same fault as the parser in Python tells it, which is slow; None where that takes long."""
    try:
        for _ in yaml.parse(text, Loader=yaml.SafeLoader) if len(text) <= READ_TWICE else ():
            pass
        if len(text) <= READ_TWICE:
            yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return error
    return None


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
        keys = [shortened(str(key), 40) for key in list(value)[:4]]
        return f"a mapping with {', '.join(keys)}{', ...' if len(value) > 4 else ''}" if keys else "an empty mapping"
    if isinstance(value, list | tuple):
        return "an empty list" if not value else f"a list of {len(value)}"
    return shortened(f"'{value}'" if isinstance(value, str) else str(value), 80)


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


def _require_plain(text: str) -> None:
    """Raise a ValueError for what no job has and what would be dear or dangerous to read on: tags, deep nesting, texts
    without end, more values than any job's. The text is read once for it, event by event, and nothing is built.
    """
    depth = values = 0
    with suppress(yaml.YAMLError):  # whoever reads it next reports it
        for event in yaml.parse(text, Loader=_Parser):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            values += isinstance(event, yaml.NodeEvent)
            if problem := _too_much(event, depth, values):
                raise ValueError(f"line {event.start_mark.line + 1 if event.start_mark else 1} {problem}")


def _too_much(event: Any, depth: int, values: int) -> str:
    """What is wrong with a part of a job whatever it means; empty if nothing is."""
    if depth > DEEPEST:
        return f"is nested more than {DEEPEST} deep, which no job is"
    if values > MOST_VALUES:
        return f"has the value after {MOST_VALUES:,} others, which are the most that a job has"
    if getattr(event, "tag", None) is not None:
        return f"has the tag {shortened(str(event.tag), 60)}; a job has no tags (!name), remove it"
    if not isinstance(event, yaml.ScalarEvent):
        return ""
    if len(event.value) > LONGEST:
        return f"has a text of {len(event.value):,} characters; at most {LONGEST:,} are allowed"
    found = _CONTROL.search(event.value)
    return f"has the character U+{ord(found.group()):04X}, which no name and no path has; remove it" if found else ""


def _require_few(node: Any) -> None:
    """Raise a ValueError where references stand for more values than any job has, nested deeper, or for themselves."""
    sizes: dict[int, tuple[int, int] | None] = {}

    def size(node: Any) -> tuple[int, int]:
        """Values in it, and how deep they are nested."""
        if id(node) in sizes:
            if (known := sizes[id(node)]) is None:
                raise ValueError(f"line {node.start_mark.line + 1} begins a value that holds itself (*name)")
            return known
        sizes[id(node)] = None
        inner = [size(part) for part in _parts(node)]
        found = 1 + sum(values for values, _ in inner), 1 + max((depth for _, depth in inner), default=-1)
        sizes[id(node)] = found
        return found

    values, depth = size(node)
    for what, count, most in (("values", values, MOST_VALUES), ("levels", depth, DEEPEST)):
        if count > most:
            raise ValueError(
                f"with its references (*name) written out it has {count:,} {what}; a job has {most:,} at most"
            )


def _parts(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.MappingNode):
        return itertools.chain.from_iterable(node.value)
    return iter(node.value if isinstance(node, yaml.SequenceNode) else ())


def written(raw: dict[str, Any]) -> str:
    """The same mapping as a file that ``read`` gives back; comments are not kept."""
    return str(yaml.dump(raw, Dumper=_Writer, sort_keys=False, allow_unicode=True))
