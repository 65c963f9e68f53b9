"""Image-only processors on a machine without torchvision.

Processors that also have a slot for videos (Qwen-VL, InternVL, LLaVA-OneVision, GLM-V, ERNIE) cannot be constructed
there: every video processor of transformers 5 is written on torchvision. Their image side runs on PIL. Two seams of
``ProcessorMixin`` are enough: an empty video slot is accepted, and loading one gives nothing. With torchvision
installed neither is touched, because there the slot must be filled. SmolVLM's processor moreover asks for num2words,
which it uses to say how many frames a video has.
"""

from __future__ import annotations

from functools import wraps
from importlib.util import find_spec
from typing import Any, final

SLOT = "video_processor"


def has_torchvision() -> bool:
    """Whether torchvision is installed."""
    return find_spec("torchvision") is not None


def allow_missing_video_processors() -> None:
    """Let processors load without their video side where torchvision is missing. Calling it again changes nothing."""
    from transformers import processing_utils
    from transformers.processing_utils import ProcessorMixin

    if not find_spec("num2words"):
        from transformers.models.smolvlm import processing_smolvlm

        processing_smolvlm.num2words = str
    if has_torchvision() or getattr(ProcessorMixin, "_vlmprof_no_video", False):
        return
    check = ProcessorMixin.check_argument_for_proper_class

    @wraps(check)
    def accept_an_empty_slot(self: Any, argument_name: str, argument: Any) -> Any:
        return None if argument_name == SLOT and argument is None else check(self, argument_name, argument)

    ProcessorMixin.check_argument_for_proper_class = accept_an_empty_slot
    ProcessorMixin._vlmprof_no_video = True
    mapping = processing_utils.MODALITY_TO_AUTOPROCESSOR_MAPPING
    mapping._MAPPING_NAMES = {**mapping._MAPPING_NAMES, SLOT: (__name__, "NoVideo")}


@final
class NoVideo:
    """Stands where ``AutoVideoProcessor`` would, and loads nothing."""

    @staticmethod
    def from_pretrained(*args: Any, **kwargs: Any) -> None:
        """Fill the slot with nothing, whatever the checkpoint says."""
