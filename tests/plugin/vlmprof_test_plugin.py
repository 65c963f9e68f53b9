"""A third party's knob, as an installed package would bring it: it makes trouble inside the model, on demand."""

import os
import time
from contextlib import contextmanager
from pathlib import Path

from vlmprof.errors import KnobValueError, suggestion
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.surfaces import DecoderStack

VALUES = ("none", "raise", "die", "slow", "oom", "paced", "lose")
PACE = "VLMPROF_TEST_PACE"
"""Names a file with the seconds that a forward pass of `paced` waits; whoever holds the file may change them."""

AT = {"die at ": lambda: os._exit(7), "hang at ": lambda: time.sleep(1e6)}
"""With a question after it: what the process does when it is asked that question."""


def pace():
    try:
        return float(Path(os.environ[PACE]).read_text() or 0)
    except (KeyError, OSError):
        return 0.0


class Trouble(AbstractKnob):
    needs = DecoderStack

    def check(self, value, anatomy):
        if value not in VALUES and not str(value).startswith(tuple(AT)):
            raise KnobValueError(f"trouble: no '{value}'{suggestion(str(value), VALUES)}")

    @contextmanager
    def applied(self, model, value):
        def hook(module, args):
            if value == "raise":
                raise ValueError("the knob made the model raise")
            if value == "die":
                os._exit(7)
            if value == "slow":
                time.sleep(0.02)
            if value == "paced":
                time.sleep(pace())
            if value == "lose":
                import torch

                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            if value == "oom":
                raise RuntimeError("CUDA error: out of memory")

        handle = model.decoder.layers[0].register_forward_pre_hook(hook)
        deadly = [(value.removeprefix(how), act) for how, act in AT.items() if value.startswith(how)]
        with contextmanager(_asked)(model, *deadly[0]) if deadly else contextmanager(_left_alone)():
            try:
                yield
            finally:
                handle.remove()

    def effect(self, value, anatomy, seen):
        return "effective"


def _left_alone():
    yield


def _asked(model, question, act):
    """The model does something else than answer when a batch holds this question."""
    names = [name for name in ("encode", "encode_text") if hasattr(model, name)]

    def watched(honest):
        def encode(prompts, *args, **kwargs):
            if any(question == prompt.text for prompt in prompts):
                act()
            return honest(prompts, *args, **kwargs)

        return encode

    for name in names:
        setattr(model, name, watched(getattr(model, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)


KNOB = Trouble()
