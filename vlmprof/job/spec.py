"""``SweepSpec``: what the user asked for, a validated and frozen copy of the YAML that knows only names and numbers.

``survey`` finds every fault it can and keeps the sections that are sound, so that the caller can check knob values
against models in the same pass; ``read`` is a survey or an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic import functional_serializers as serializers
from pydantic import functional_validators as validators

from vlmprof import registry
from vlmprof.errors import Fault, SpecError, UnknownNameError, as_written, suggestion
from vlmprof.job import storage, strict_yaml
from vlmprof.job.bounds import MOST_ENTRIES, few, usable_path
from vlmprof.job.labels import readable
from vlmprof.job.messages import faults_of
from vlmprof.job.storage import mounted, storable
from vlmprof.job.strict_yaml import JobSource, job_text

SLUG = r"^[a-z0-9][a-z0-9_-]*$"


def _known(kind: str) -> Callable[[Any], Any]:
    def check(name: Any) -> Any:
        if isinstance(name, str) and name not in registry.names(kind):
            raise ValueError(str(UnknownNameError(registry.KINDS[kind].noun, name, registry.names(kind))))
        return name

    return check


def _frozen(value: Any) -> Any:
    """YAML lists become tuples, mappings keep their keys in one order: knob values compare by what they mean."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return {key: _frozen(value[key]) for key in sorted(value, key=str)} if isinstance(value, dict) else value


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for value, repeated in zip(values, _repeated(values), strict=True):
        if repeated:
            raise ValueError(f"{_called(value)} is listed twice")
    return values


def _repeated(values: Iterable[Any]) -> Iterator[bool]:
    """For each value, whether an equal one stands before it. A set finds those that can be hashed: a grid is long."""
    seen, others = set[Any](), list[Any]()
    for value in values:
        key = _hashable(value)
        try:
            known = key in seen
            seen.add(key)
        except TypeError:
            known = value in others
            others.append(value)
        yield known


def _hashable(value: Any) -> Any:
    """Equal for equal values; what has no hash is returned as it is."""
    if isinstance(value, dict):
        return ("a mapping", *((name, _hashable(item)) for name, item in value.items()))
    return tuple(map(_hashable, value)) if isinstance(value, tuple) else value


def _own_values(value: Any) -> Any:
    if isinstance(value, list | tuple) and not value:
        raise ValueError("expected at least one value; null leaves the knob out for this model")
    return _frozen(value)


def _called(value: Any) -> str:
    """An entry of a list in a message: a model or a task by its name, a value as it is written."""
    if isinstance(value, Section):
        return f"'{getattr(value, 'label', '') or getattr(value, 'name', '')}' with the same settings"
    return as_written(value)


def _pairs(value: Any) -> Any:
    if isinstance(value, list) and not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise ValueError(f"expected a mapping, got {as_written(value)}")
    return tuple(sorted(value.items(), key=str)) if isinstance(value, dict) else value


SUBSET = {"n": "samples", "seed": "seed", "stratify": "stratify"}
"""Key inside ``samples`` -> the field it stands for."""
Many = (BeforeValidator(_frozen), Field(min_length=1), AfterValidator(_unique))
FamilyName = Annotated[str, BeforeValidator(_known("models"))]
TaskName = Annotated[str, BeforeValidator(_known("tasks"))]
OwnMetricName = Annotated[str, BeforeValidator(lambda name: name if name == "" else _known("metrics")(name))]
KnobName = Annotated[str, BeforeValidator(_known("knobs"))]
Values = tuple[Any, ...]
"""The values of one knob, in the job's order."""
OwnValues = Annotated[Values | None, BeforeValidator(_own_values), AfterValidator(lambda own: own and _unique(own))]
StrategyName = Annotated[str, BeforeValidator(_known("strategies"))]
PathText = Annotated[str, AfterValidator(usable_path)]  # of a place, keys are looked for first: no message shows them
Place = Annotated[str, AfterValidator(storable), AfterValidator(usable_path), AfterValidator(storage.inside_root)]
Measure = Literal["accuracy", "latency"]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
MOST_LISTED = 12
"""Values of one key of ``timing``."""
MOST_TIMED_SETTINGS = 24
"""Batch sizes times lengths of answers: each is a timing pass of its own in every trial."""


def _one_or_several(given: Any) -> int | tuple[int, ...]:
    """A whole number, or a list of different ones; a list of one is that number, with the same trials."""
    if not isinstance(given, list | tuple):
        return _at_least_one(given, "a whole number, or a list of them")
    if not given:
        raise ValueError("expected at least one entry, got []")
    if len(given) > MOST_LISTED:
        raise ValueError(f"expected at most {MOST_LISTED} entries, got {len(given):,}; each is timed in every trial")
    values = _unique(tuple(_at_least_one(one, "whole numbers") for one in given))
    return values[0] if len(values) == 1 else values


def _at_least_one(given: Any, expected: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        hint = "; write it without quotes" if isinstance(given, str) and given.strip().isdigit() else ""
        raise ValueError(f"expected {expected}, got {as_written(given)}{hint}")
    if given < 1:
        raise ValueError(f"expected at least 1, got {given}")
    return given


OneOrSeveral = Annotated[int | tuple[int, ...], BeforeValidator(_one_or_several)]
"""What a job writes as a number or as a list."""


class Section(BaseModel):
    """A part of a job: no key it does not know, nothing coerced, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@final
class ModelSpec(Section):
    """One model: a family, and for all but the demo a checkpoint."""

    family: FamilyName
    checkpoint: PathText = Field("", description="A local folder or a Hub id; empty where the family ships its own.")
    revision: str = Field("", description="Commit of the Hub repository; pin it.")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    trust_remote_code: bool = Field(False, description="Run Python code that lies with the weights; rows say so.")
    allow_pickle: bool = Field(False, description="Read weights in formats that can hold code, such as .bin.")
    knobs: Annotated[dict[KnobName, OwnValues] | None, BeforeValidator(few)] = Field(
        None, description="Values for this model alone, in the place of the job's; null leaves a knob out."
    )

    @serializers.model_serializer(mode="wrap")
    def _without_later_defaults(self, plain: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # A trial's id is a hash of this: a field that was added later must not change the ids of jobs without it.
        return {name: value for name, value in plain(self).items() if value is not False and value is not None}

    @validators.model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"family": value} if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """A short name for tables and figures."""
        return Path(self.checkpoint).name or self.family

    @property
    def without_knobs(self) -> ModelSpec:
        """The model itself, as trials name it; unlike an entry with knobs of its own it can be hashed."""
        return self if self.knobs is None else self.model_copy(update={"knobs": None})

    def space(self, shared: Mapping[str, Values]) -> dict[str, Values]:
        """The knobs that the job asks this model to sweep: the shared ones, with its own in their place or added."""
        asked = {**shared, **(self.knobs or {})}
        return {name: values for name, values in asked.items() if values is not None}


@final
class TaskSpec(Section):
    """One dataset: the same seeded subset for every configuration."""

    name: TaskName
    split: str = Field("", description="Empty: the split the task calls its default.")
    samples: Positive | None = Field(None, description="How many questions; null: all of them.")
    seed: Annotated[int, Field(ge=0)] = 0
    stratify: Literal["", "question_type"] = Field("", description="Keep the shares of these in the subset.")
    path: PathText = Field(
        "", description="Folder or file with the data; empty: the Hub, or wherever the task has them."
    )
    revision: str = Field("", description="Commit of the task's repository on the Hub; empty: the one it pins.")
    metric: OwnMetricName = Field("", description="Only for tasks that do not bring their own.")
    columns: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)] = Field(
        (), description="Field of a sample: column of the data, where the names differ."
    )
    index_from: Literal[0, 1] | None = Field(
        None, description="Number of the first option, where answers are indexes; null: 0, unless they look otherwise."
    )
    failed_samples_allowed: Annotated[float, Field(ge=0, lt=1, strict=False)] = Field(
        0.0, description="Share of samples that may fail; accuracy is then over the others."
    )

    @serializers.model_serializer(mode="wrap")
    def _without_later_defaults(self, plain: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # As in ModelSpec: these came later, and an id must not know that they exist.
        later = ("stratify", "path", "revision", "metric", "columns", "index_from", "failed_samples_allowed")
        stated = {"index_from"} if self.index_from is not None else set()
        return {name: value for name, value in plain(self).items() if value or name not in later or name in stated}

    @validators.model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("samples"), dict):
            return value
        # samples: {n: 100, seed: 1} says the same as samples: 100 and seed: 1, and gives the same ids.
        subset = dict(value["samples"])
        unknown = next((key for key in subset if key not in SUBSET), None)
        if unknown is not None:
            raise ValueError(f"samples: unknown key '{unknown}'{suggestion(str(unknown), list(SUBSET))}")
        twice = next((SUBSET[key] for key in subset if key != "n" and key in value), None)
        if twice is not None:
            raise ValueError(f"'{twice}' is given beside samples and inside it; say it once")
        return {**value, "samples": None, **{SUBSET[key]: given for key, given in subset.items()}}


FEWEST_TIMED = 6
"""Six generations are the fewest that give a 95 % interval of a median."""


@final
class TimingSpec(Section):
    """How latency is measured: fixed requests, fixed output length, a batch size that the job names."""

    batch_size: OneOrSeveral = Field(1, description="Prompts of a request; of a list, each is timed.")
    requests: Positive = Field(16, description="Fixed batches, drawn over the sizes of the task's prompts.")
    output_tokens: OneOrSeveral = Field(16, description="Exact; end-of-sequence is ignored. Of a list, each is timed.")
    warmup: Positive = Field(1, description="Times that each request runs before; more of the first until they settle.")
    warmup_seconds: Seconds = Field(3.0, description="Least load before the clock counts, scoring included.")
    repeats: Positive = Field(4, description="Times that each request is timed, at least.")
    max_repeats: Positive = Field(60, description="The same, at most, whatever the precision.")
    max_seconds: Annotated[float, Field(gt=0)] = Field(30.0, description="Most time for repeats.")
    precision: Annotated[float, Field(gt=0, lt=1)] = Field(0.01, description="Half-width of the interval to stop at.")
    processes: Positive = Field(1, description="Sessions, each with the model loaded anew.")
    exclusive: bool | Literal["auto"] = Field(
        "auto", description="One timing pass at a time on a host; auto: unless all that is timed is recorded."
    )
    energy_seconds: Seconds = Field(3.0, description="Least load that the energy counter is read over; 0: none.")

    @validators.model_validator(mode="after")
    def _ordered(self) -> TimingSpec:
        if self.max_repeats < self.repeats:
            raise ValueError(f"max_repeats is {self.max_repeats}, less than the {self.repeats} of repeats")
        if self.requests * self.repeats < FEWEST_TIMED:
            raise ValueError(
                f"{self.requests} requests timed {self.repeats} times are {self.requests * self.repeats} generations;"
                f" an interval needs {FEWEST_TIMED}"
            )
        if len(self.settings) > MOST_TIMED_SETTINGS:
            raise ValueError(
                f"{len(_listed(self.batch_size))} batch sizes and {len(_listed(self.output_tokens))} lengths are"
                f" {len(self.settings)} settings to time in every trial; at most {MOST_TIMED_SETTINGS} are allowed"
            )
        return self

    @property
    def settings(self) -> tuple[tuple[int, int], ...]:
        """(batch size, output tokens) of everything that is timed; columns without a suffix are those of the first."""
        return tuple((batch, length) for batch in _listed(self.batch_size) for length in _listed(self.output_tokens))


def _listed(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


@final
class BatchSpec(Section):
    """Batch size of the score pass: a number is respected as it is; ``auto`` grows up to ``max``."""

    size: Positive | Literal["auto"] = "auto"
    max: Positive = 32
    maximize: bool = Field(False, description="The largest safe batch, not the smallest that is nearly as fast.")
    audit_samples: Annotated[int, Field(ge=0)] = Field(64, description="Answered again at batch 1; 0: no audit.")
    flip_rate_allowed: Annotated[float, Field(ge=0, le=1)] = 0.01

    @validators.model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"size": value} if isinstance(value, int | str) else value


@final
class ResourceSpec(Section):
    """What one trial owns while it runs."""

    gpus: Literal["auto", 0, 1] = Field("auto", description="auto: one where the cluster has any, else none.")
    cpus: Positive = 1
    threads: Positive | None = Field(None, description="That the arithmetic runs on; null: as many as cpus.")
    readers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="Processes that decode pictures ahead of the score pass; auto: two beside a GPU, else none."
    )
    accelerator: str = Field("", description="Ray's name of a GPU type, to keep latencies of unlike GPUs apart.")
    labels: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs), AfterValidator(readable)] = Field(
        (), description="Label of a node: value, !value, in(a, b) or !in(a, b). Trials run on nodes that fit all."
    )
    shards: Positive | Literal["auto"] = Field(1, description="Workers that answer one trial's samples.")
    concurrent: Positive | Literal["auto"] = Field("auto", description="Most trials at once; a number waits for nodes.")


@final
class ChunkSpec(Section):
    """When the answers of a trial that runs are kept: whichever comes first."""

    answers: Positive = Field(256, description="Answers that are kept together.")
    seconds: Seconds = Field(10.0, description="The most scoring that is lost with a process.")


def _one_entry_each(models: tuple[ModelSpec, ...]) -> tuple[ModelSpec, ...]:
    for model, repeated in zip(models, _repeated(model.without_knobs for model in models), strict=True):
        if repeated:
            raise ValueError(f"{model.label} is listed twice; one entry holds all values of its knobs")
    return models


@final
class SweepSpec(Section):
    """One sweep: models x tasks x the points that a strategy proposes in the space of the knobs."""

    name: Annotated[str, Field(pattern=SLUG, max_length=128)]
    models: Annotated[tuple[ModelSpec, ...], *Many, AfterValidator(_one_entry_each), BeforeValidator(few)]
    tasks: Annotated[tuple[TaskSpec, ...], *Many, BeforeValidator(few)]
    knobs: Annotated[dict[KnobName, Annotated[Values, *Many]], BeforeValidator(few)] = Field(
        {}, description="For every model that they can act on; may be left out where models have knobs of their own."
    )
    strategy: StrategyName = "grid"
    engine: Literal["auto", "eager", "graphs", "compiled"] = Field("auto", description="How tokens are made.")
    preprocess: Literal["auto", "device", "host"] = Field("auto", description="Where pictures are cut.")
    measure: Annotated[tuple[Measure, ...], *Many] = ("accuracy", "latency")
    timing: TimingSpec = TimingSpec()
    batch: BatchSpec = BatchSpec()
    resources: ResourceSpec = ResourceSpec()
    chunk: ChunkSpec = ChunkSpec()
    timeout_s: Annotated[float, Field(ge=1)] | None = Field(
        3600.0, description="A trial without any progress for so long is ended and tried again; null: never."
    )
    storage: Place = Field(
        "", description="Results folder, a path or a URI; empty: results/<name>.", validate_default=True
    )

    @validators.model_validator(mode="after")
    def _one_length(self) -> SweepSpec:
        if isinstance(self.timing.output_tokens, tuple) and "output_tokens" in self.all_knobs:
            raise ValueError(
                "timing.output_tokens lists several lengths, and the knob output_tokens sets the length of every"
                " answer; give only one of them"
            )
        return self

    @validators.model_validator(mode="after")
    def _inside_root(self) -> SweepSpec:
        if why := storage.why_outside(self.where):
            raise ValueError(f"storage: {why}")
        return self

    @property
    def where(self) -> str:
        """Where the tables lie: a path or a URI."""
        return storage.results_place(self.storage, self.name)

    @property
    def folder(self) -> Path:
        """The same for what needs a mounted folder; a UserError where the storage is an object store."""
        return mounted(self.where)

    @property
    def all_knobs(self) -> dict[str, Values]:
        """Every knob of the job with all its values: those for all models, then what single models add."""
        found: dict[str, Values] = {name: () for name in self.knobs}
        for model in self.models:
            for name, values in model.space(self.knobs).items():
                known = found.get(name, ())
                found[name] = (*known, *(value for value in values if value not in known))
        return found


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedJob:
    """All that could be learnt from one job."""

    source: str
    """What messages call it: the path of its file, or ``job``."""
    text: str
    """The job as YAML."""
    spec: SweepSpec | None
    """None when there is any fault."""
    models: Mapping[int, ModelSpec]
    """Position in the job -> the model, for those that are sound by themselves, also when something else is not."""
    entries: int
    """How many models the job lists, sound or not."""
    knobs: dict[str, Values]
    """The knobs for all models, as far as they are sound."""
    faults: tuple[Fault, ...]


def read(job: JobSource) -> SweepSpec:
    """The job in a file, a text or a mapping.

    Raises:
        SpecError: with every fault that can be found without a model.
    """
    found = survey(job)
    if found.spec is None:
        raise SpecError(found.source, found.faults)
    return found.spec


def survey(job: JobSource) -> ParsedJob:
    """Everything right and wrong with a job; never raises for what a file or a text says.

    Raises:
        SpecError: the file cannot be read, or the mapping cannot be written as YAML.
    """
    given = job_text(job)
    raw, faults = strict_yaml.parse(given.text)
    spec = None
    if raw is not None:
        try:
            spec = SweepSpec.model_validate(raw)
        except ValidationError as error:
            faults += faults_of(error, SweepSpec)
        faults += _lacking_knobs(raw)
    return ParsedJob(
        source=given.source,
        text=given.text,
        spec=None if faults else spec,
        models=dict(_sound_models(raw or {})),
        entries=len(_entries(raw or {})),
        knobs=_sound_knobs((raw or {}).get("knobs")),
        faults=tuple(faults),
    )


def _lacking_knobs(raw: dict[str, Any]) -> Iterator[Fault]:
    """A job without any knob, and knobs that are left out although no model would have them."""
    shared, entries = raw.get("knobs", {}), _entries(raw)
    own = {i: entry["knobs"] for i, entry in enumerate(entries) if isinstance(entry, dict) and entry.get("knobs")}
    if "knobs" not in raw and not own:
        yield Fault(field="knobs", problem="is required")
    elif shared == {} and not own:
        yield Fault(field="knobs", problem="expected at least one entry, got {}")
    if not isinstance(shared, dict):
        return
    left_out = {
        i: [name for name in knobs if knobs[name] is None] for i, knobs in own.items() if isinstance(knobs, dict)
    }
    for i, names in left_out.items():
        for name in (name for name in names if name not in shared):
            problem = "null leaves a knob of the job out for this model, and the job has no such knob"
            yield Fault(field=f"models.{i}.knobs.{name}", problem=f"{problem}; remove the line, or give it values")
    for name in list(shared)[:MOST_ENTRIES]:
        if entries and all(name in left_out.get(i, ()) for i in range(len(entries))):
            yield Fault(field=f"knobs.{name}", problem="every model of the job leaves it out; remove it here and there")


def _entries(raw: dict[str, Any]) -> list[Any]:
    entries = raw.get("models")
    return entries if isinstance(entries, list) and len(entries) <= MOST_ENTRIES else []


def _sound_models(raw: dict[str, Any]) -> Iterator[tuple[int, ModelSpec]]:
    for i, entry in enumerate(_entries(raw)):
        has_own = isinstance(entry, dict) and "knobs" in entry
        sound = {**entry, "knobs": _sound_knobs(entry["knobs"], own=True)} if has_own else entry
        try:
            yield i, ModelSpec.model_validate(sound)
        except ValidationError:
            continue  # its faults are already in the survey


def _sound_knobs(knobs: Any, *, own: bool = False) -> dict[str, Any]:
    """The knobs whose names and lists are right, each value once; a model's own may also be null."""
    known = registry.names("knobs")
    looked_at = isinstance(knobs, dict) and len(knobs) <= MOST_ENTRIES
    named = {name: given for name, given in knobs.items() if name in known} if looked_at else {}
    lists = {name: _once(given) for name, given in named.items() if isinstance(given, list) and given}
    return {**lists, **{name: None for name, given in named.items() if own and given is None}}


def _once(values: list[Any]) -> Values:
    frozen = _frozen(values)
    return tuple(value for value, repeated in zip(frozen, _repeated(frozen), strict=True) if not repeated)
