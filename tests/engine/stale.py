"""A fault for tests: a recorded call that leaves one of its inputs in the buffer as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from vlmprof.engine.recording import RecordedCall


def stale(name: str) -> Callable[[RecordedCall, Mapping[str, Tensor]], None]:
    """Inputs are copied except one, which keeps what the batch before left in its buffer."""

    def load(self: RecordedCall, inputs: Mapping[str, Tensor]) -> None:
        for key, buffer in self.inputs.items():
            if key != name or not hasattr(self, "_advance"):
                buffer.copy_(inputs[key])

    return load
