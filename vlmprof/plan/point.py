"""``Point``, ``TrialPlan`` and the id of a trial, which its row, its files and its ledger lines carry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from vlmprof.job.spec import ModelSpec, TaskSpec, TimingSpec


@final
@dataclass(frozen=True, slots=True)
class Point:
    """One value for each knob that a trial sets, ordered by knob name, hashable; none at all: the model as it is."""

    items: tuple[tuple[str, str], ...]
    """(knob, canonical JSON of its value)"""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Point:
        """A point from plain values; a tuple and a list with the same items are equal."""
        return cls(tuple((name, canonical(values[name])) for name in sorted(values)))

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """(knob, value) pairs, ordered by knob name."""
        return ((name, json.loads(text)) for name, text in self.items)

    def __str__(self) -> str:
        return " ".join(f"{name}={text}" for name, text in self.items) or "as trained"

    @property
    def words(self) -> str:
        """The same for display, each value as tables write it: ``active_blocks=prefix 4``."""
        return " ".join(f"{name}={label(value)}" for name, value in self) or "as trained"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The settings of the timing pass, as in ``spec.TimingSpec``."""

    batch_size: int
    requests: int
    output_tokens: int
    warmup: int
    warmup_seconds: float
    repeats: int
    max_repeats: int
    max_seconds: float
    precision: float
    processes: int
    exclusive: bool | str
    """Or ``auto``."""
    energy_seconds: float
    further: tuple[tuple[int, int], ...] = ()
    """Batch size and output tokens of what is timed besides; not part of a trial's id where there is nothing."""

    @classmethod
    def of(cls, spec: TimingSpec) -> Timing:
        """The settings of a job."""
        (batch_size, output_tokens), *further = spec.settings
        values = {**spec.model_dump(), "batch_size": batch_size, "output_tokens": output_tokens}
        return cls(**values, further=tuple(further))

    @property
    def settings(self) -> tuple[tuple[int, int], ...]:
        """(batch size, output tokens) of everything that is timed, in the job's order."""
        return (self.batch_size, self.output_tokens), *self.further

    @property
    def words(self) -> str:
        """The settings for display: ``batch size 1, 8 and output tokens 16, 64``."""
        names = ("batch size", "output tokens")
        values = [dict.fromkeys(one) for one in zip(*self.settings, strict=True)]
        return " and ".join(f"{name} {', '.join(map(str, of))}" for name, of in zip(names, values, strict=True))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    """Everything that decides a trial's outcome; equal plans have equal ids."""

    model: ModelSpec
    model_fingerprint: str
    task: TaskSpec
    task_revision: str
    point: Point
    measure: tuple[str, ...]
    timing: Timing
    batch_size: int | None
    """Fixed by the job; None lets the batch sizer choose."""
    batch_max: int
    audit_samples: int
    flip_rate_allowed: float
    accelerator: str
    gpus: str
    """As in the job: ``auto``, ``0`` or ``1``."""
    threads: int
    batch_maximize: bool = False
    """Whether the sizer looks for the largest safe batch instead of the smallest that is nearly as fast."""
    readers: int | None = None
    """Processes that decode pictures in advance; None lets the trial choose."""
    engine: str = "auto"
    """As in the job; ``auto`` is not part of the id, so that trials from before there were engines keep theirs."""
    preprocess: str = "auto"
    """As in the job; ``auto`` is not part of the id, as with ``engine``."""
    labels: tuple[tuple[str, str], ...] = ()
    """Of the nodes that may run it; part of the id unless empty."""
    inapplicable: tuple[str, ...] = ()
    """Knobs of the job that the model has nothing for; its rows say so. Not part of the id: the trial is the one that a
    job without these knobs has."""

    @property
    def id(self) -> str:
        """First 12 hexadecimal digits of the sha256 of the canonical JSON of all fields.

        Fields that only affect how fast answers are computed are left out: the sizer's upper bound and goal, the number
        of readers, and, where nothing is timed, the share of the machine. The flip rate above which a report warns and
        the knobs that the model has nothing for are left out too.
        """
        # Not asdict, which copies every value deeply: a large job asks for ids tens of thousands of times.
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        fields |= {"model": self.model.model_dump(), "task": self.task.model_dump()}
        fields |= {"point": {"items": self.point.items}}
        fields["timing"] = {name: getattr(self.timing, name) for name in self.timing.__slots__}
        machine_share = () if "latency" in self.measure else ("gpus", "threads")
        for name in ("batch_max", "batch_maximize", "flip_rate_allowed", "readers", "inapplicable", *machine_share):
            del fields[name]
        if not self.timing.further:
            del fields["timing"]["further"]
        for name in ("engine", "preprocess"):
            if fields[name] == "auto":
                del fields[name]
        if not self.labels:
            del fields["labels"]
        return hashlib.sha256(canonical(fields).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return f"{self.model.label} {self.task.name} {self.point.words}"


def label(value: Any) -> str:
    """A knob's value for display: ``6``, ``prefix 4``, ``drop 0,3``, ``nested_random 4 seed 1``, ``0,1,3``."""
    if isinstance(value, dict):
        first = str(value.get("policy", ""))
        first += " " + label(value.get("keep", value.get("drop", value.get("k", ""))))
        rest = {key: item for key, item in value.items() if key not in ("policy", "keep", "drop", "k")}
        return " ".join([first.strip(), *(key if item is True else f"{key} {item}" for key, item in rest.items())])
    return ",".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=list)


def words_of(point: str) -> str:
    """A ``Point`` that was written as text, as in the column ``point``, with its values as tables write them."""
    words, rest, decoder = [], point, json.JSONDecoder()
    while "=" in rest:
        name, _, rest = rest.partition("=")
        try:
            value, end = decoder.raw_decode(rest)
        except ValueError:  # written by something else
            return point
        words.append(f"{name.strip()}={label(value)}")
        rest = rest[end:]
    return " ".join(words) or point
