"""A third party's knob, as an installed package would bring it: it makes trouble inside the model, on demand."""

import os
import time
from contextlib import contextmanager

from vlmprof.errors import KnobValueError, suggestion
from vlmprof.knobs.knob import AbstractKnob
from vlmprof.surfaces import DecoderStack

VALUES = ("none", "raise", "die", "slow", "oom")


class Trouble(AbstractKnob):
    needs = DecoderStack

    def check(self, value, anatomy):
        if value not in VALUES:
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
            if value == "oom":
                raise RuntimeError("CUDA error: out of memory")

        handle = model.decoder.layers[0].register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def effect(self, value, anatomy, seen):
        return "effective"


KNOB = Trouble()
