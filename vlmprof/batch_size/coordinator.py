"""``ProbeCoordinator``: one world's evidence, and who is probing what.

Single flight: while one asker probes a configuration, others who ask for the same wait. The prober holds a lease; one
that dies is replaced when its lease ends, and what it says later carries an older token and is not heard (fencing).
Time is passed in, in seconds of one clock for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from vlmprof.batch_size.memory_model import MemoryPoint
from vlmprof.batch_size.observations import ConfigurationRecord, Observations
from vlmprof.batch_size.protocol import ProbeResult, SizeReply, SizeRequest
from vlmprof.batch_size.search import next_step

LEASE_S = 60.0
"""The prober renews it while it works; so long nobody else probes after its death."""
WAIT_S = 0.5

Entry = Mapping[str, Any]
"""One event of a journal, as JSON has it."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLease:
    """The right to probe one configuration."""

    configuration: str
    asker: str
    token: int
    until: float


@final
class ProbeCoordinator:
    """One world. Every change of state is an entry, and replaying the entries gives the state again."""

    def __init__(self, prior: Mapping[str, list[MemoryPoint]] | None = None) -> None:
        """Nothing is known but what a world of other versions measured."""
        self.evidence = Observations(prior=prior or {})
        self._leases: dict[str, ProbeLease] = {}
        self._token = 0

    def ask(self, question: SizeRequest, now: float) -> tuple[SizeReply, list[Entry]]:
        """What to do next, and what is to be remembered of it.

        Asked again by the same asker in the same state, it answers the same.
        """
        if question.usable_bytes is None:
            return _assumed(self.evidence, question), []
        held = self._leases.get(question.configuration)
        mine = held is not None and held.asker == question.asker
        if held is not None and not mine and held.until > now:
            return SizeReply(action="wait", wait_s=min(WAIT_S, held.until - now)), []
        step = next_step(self.evidence, question)
        if step.action == "use":
            entries = [self._note(_released(held))] if held is not None else []
            return SizeReply(action="use", size=step.size, source=step.source), entries
        token = held.token if held is not None and mine else self._token + 1
        lease = ProbeLease(configuration=question.configuration, asker=question.asker, token=token, until=now + LEASE_S)
        answer = SizeReply(action="probe", size=step.size, token=token, predicted_bytes=step.predicted_bytes)
        return answer, [self._note({"kind": "lease", **asdict(lease)})]

    def renew(self, configuration: str, token: int, now: float) -> list[Entry]:
        """The prober is alive; nothing where its lease went to somebody else."""
        held = self._leases.get(configuration)
        if held is None or held.token != token:
            return []
        return [self._note({"kind": "lease", **asdict(held), "until": now + LEASE_S})]

    def tell(self, told: ProbeResult) -> list[Entry]:
        """A batch ran or did not. A probe whose lease went to somebody else is not heard; an event counts once."""
        if told.id in self.evidence.ids:
            return []
        held = self._leases.get(told.configuration)
        if told.worst_case and (held is None or held.token != told.token):
            return []
        return [self._note({"kind": "told", **asdict(told)})]

    def apply(self, entry: Entry) -> None:
        """Take an entry in: of this process or of another that shares the journal, once or again."""
        fields = {name: value for name, value in entry.items() if name != "kind"}
        if entry["kind"] == "told":
            pairs = {name: tuple((key, amount) for key, amount in fields.pop(name)) for name in ("demand", "phases")}
            self.evidence.add(ProbeResult(**{**fields, **pairs}))
            return
        lease = ProbeLease(**fields)
        self._token = max(self._token, lease.token)
        held = self._leases.get(lease.configuration)
        if held is None or lease.token >= held.token:
            self._leases[lease.configuration] = lease

    def _note(self, entry: Entry) -> Entry:
        self.apply(entry)
        return entry


def _released(lease: ProbeLease) -> Entry:
    """The same lease, over: nobody has to wait for its end. Its token stays the newest until the next."""
    return {"kind": "lease", **asdict(lease), "asker": "", "until": 0.0}


def _assumed(evidence: Observations, question: SizeRequest) -> SizeReply:
    """Where nothing can be measured: the job's maximum until it fails, then halves of what failed."""
    known = evidence.known.get(question.configuration) or ConfigurationRecord(question.demand)
    refused = known.refused(None)
    most = question.most if refused is None else min(question.most, refused - 1)
    ran = min(known.unmeasured, most)
    size = most if refused is None else max(ran, most // 2, min(most, 1))
    return SizeReply(action="use", size=size, source="assumed" if size else "refused")
