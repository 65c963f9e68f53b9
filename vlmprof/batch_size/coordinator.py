"""``ProbeCoordinator``: the observations of one memory key, and which trial is probing which configuration.

While one trial probes a configuration, others that ask for it wait. The probing trial holds a lease. If it dies, its
lease expires and another trial probes; a result that it sends later carries an older token and is ignored (fencing).
Time is passed in, in seconds of one clock for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, final

from vlmprof.batch_size.memory_model import MemoryPoint
from vlmprof.batch_size.observations import ConfigurationRecord, Observations
from vlmprof.batch_size.protocol import ProbeResult, SizeReply, SizeRequest
from vlmprof.batch_size.search import next_step
from vlmprof.regular_files import sound

LEASE_S = 60.0
"""The probing trial renews its lease while it works; this long after it died nobody else probes."""
FUTURE_S = 2 * LEASE_S
"""A lease that ends later was granted by a clock that was wrong; nobody waits for it."""
WAIT_S = 0.5

Entry = Mapping[str, Any]
"""One line of a cache file, as JSON: a result (``kind`` is ``told``) or a lease (``kind`` is ``lease``)."""
KEYS_ON_DISK: Final = {"memory_key": "world", "requester": "asker"}
"""Fields whose key in a cache file is another: the files are older than the names."""
FIELDS: Final = {key: name for name, key in KEYS_ON_DISK.items()}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLease:
    """The right to probe one configuration."""

    configuration: str
    requester: str
    token: int
    until: float


@final
class ProbeCoordinator:
    """The state of one memory key. Every change of it is an entry, and replaying the entries restores it."""

    def __init__(self, prior: Mapping[str, list[MemoryPoint]] | None = None) -> None:
        """No observations yet.

        Args:
            prior: Phase -> what was measured with other versions; a starting point for predictions.
        """
        self.observations = Observations(prior=prior or {})
        self._leases: dict[str, ProbeLease] = {}
        self._token = 0

    def ask(self, request: SizeRequest, now: float) -> tuple[SizeReply, list[Entry]]:
        """What the trial has to do next, and the entries to write to the cache file.

        The same request in the same state gets the same reply.
        """
        if request.usable_bytes is None:
            return _assumed(self.observations, request), []
        lease = self._leases.get(request.configuration)
        is_own = lease is not None and lease.requester == request.requester
        if lease is not None and not is_own and now < lease.until <= now + FUTURE_S:
            return SizeReply(action="wait", wait_s=min(WAIT_S, lease.until - now)), []
        step = next_step(self.observations, request)
        if step.action == "use":
            entries = [self._apply_new(_released(lease))] if lease is not None else []
            return SizeReply(action="use", size=step.size, source=step.source), entries
        token = lease.token if lease is not None and is_own else self._token + 1
        granted = ProbeLease(
            configuration=request.configuration, requester=request.requester, token=token, until=now + LEASE_S
        )
        reply = SizeReply(action="probe", size=step.size, token=token, predicted_bytes=step.predicted_bytes)
        return reply, [self._apply_new(_entry("lease", granted))]

    def renew(self, configuration: str, token: int, now: float) -> list[Entry]:
        """Extend a lease; no entries if it has passed to another trial."""
        lease = self._leases.get(configuration)
        if lease is None or lease.token != token:
            return []
        return [self._apply_new({**_entry("lease", lease), "until": now + LEASE_S})]

    def tell(self, result: ProbeResult) -> list[Entry]:
        """Take the result of a batch; no entries if it is known already, or if its lease passed to another trial."""
        if result.id in self.observations.ids:
            return []
        lease = self._leases.get(result.configuration)
        if result.worst_case and (lease is None or lease.token != result.token):
            return []
        return [self._apply_new(_entry("told", result))]

    def apply(self, entry: Entry) -> None:
        """Apply an entry of this or another process; applying one twice changes nothing.

        Raises:
            ValueError, TypeError, KeyError: it is none. Nothing has changed.
        """
        fields = {FIELDS.get(key, key): value for key, value in entry.items() if key != "kind"}
        if entry["kind"] == "told":
            pairs = {
                name: tuple(_pair(key, amount) for key, amount in fields.pop(name)) for name in ("demand", "phases")
            }
            self.observations.add(sound(ProbeResult(**{**fields, **pairs})))
            return
        lease = sound(ProbeLease(**fields))
        self._token = max(self._token, lease.token)
        current = self._leases.get(lease.configuration)
        if current is None or lease.token >= current.token:
            self._leases[lease.configuration] = lease

    def _apply_new(self, entry: Entry) -> Entry:
        self.apply(entry)
        return entry


def _pair(key: Any, amount: Any) -> tuple[str, Any]:
    if not isinstance(key, str) or isinstance(amount, bool) or not isinstance(amount, int | float):
        raise ValueError(f"{key!r} is {amount!r}")
    return key, amount


def _entry(kind: str, value: ProbeResult | ProbeLease) -> dict[str, Any]:
    return {"kind": kind, **{KEYS_ON_DISK.get(name, name): content for name, content in asdict(value).items()}}


def _released(lease: ProbeLease) -> Entry:
    """The same lease, ended, so that nobody waits for it to expire. Its token stays the newest until the next lease."""
    return {**_entry("lease", lease), KEYS_ON_DISK["requester"]: "", "until": 0.0}


def _assumed(observations: Observations, request: SizeRequest) -> SizeReply:
    """The reply where memory cannot be measured: the job's maximum until it fails, then half of what failed."""
    record = observations.configurations.get(request.configuration) or ConfigurationRecord(request.demand)
    failed = record.smallest_failure(None)
    limit = request.max_size if failed is None else min(request.max_size, failed - 1)
    ran = min(record.largest_unmeasured, limit)
    size = limit if failed is None else max(ran, limit // 2, min(limit, 1))
    return SizeReply(action="use", size=size, source="assumed" if size else "refused")
