"""Image-only processors on a machine without torchvision.

Processors with a video processor (Qwen-VL, InternVL, LLaVA-OneVision, GLM-V, ERNIE) cannot be constructed there,
because every video processor of transformers 5 needs torchvision; their image processors can run on PIL. Two patches of
``ProcessorMixin`` are enough: None is accepted as a video processor, and loading one returns None. With torchvision
installed nothing is patched, because the video processor is then required. SmolVLM's processor also imports num2words,
which it only uses to spell out the number of frames of a video; ``str`` replaces it where it is missing.
"""

from __future__ import annotations

from functools import wraps
from importlib.util import find_spec
from typing import Any, final

VIDEO_ARGUMENT = "video_processor"


def has_torchvision() -> bool:
    """Whether torchvision is installed."""
    return find_spec("torchvision") is not None


def allow_missing_video_processors() -> None:
    """Let processors load without a video processor where torchvision is missing. Repeated calls change nothing."""
    from transformers import processing_utils
    from transformers.processing_utils import ProcessorMixin

    if not find_spec("num2words"):
        from transformers.models.smolvlm import processing_smolvlm

        processing_smolvlm.num2words = str
    if has_torchvision() or getattr(ProcessorMixin, "_vlmprof_no_video", False):
        return
    check = ProcessorMixin.check_argument_for_proper_class

    @wraps(check)
    def accept_missing_video(self: Any, argument_name: str, argument: Any) -> Any:
        return None if argument_name == VIDEO_ARGUMENT and argument is None else check(self, argument_name, argument)

    ProcessorMixin.check_argument_for_proper_class = accept_missing_video
    ProcessorMixin._vlmprof_no_video = True
    mapping = processing_utils.MODALITY_TO_AUTOPROCESSOR_MAPPING
    mapping._MAPPING_NAMES = {**mapping._MAPPING_NAMES, VIDEO_ARGUMENT: (__name__, "NoVideo")}


@final
class NoVideo:
    """Replaces ``AutoVideoProcessor``; loading it returns None."""

    @staticmethod
    def from_pretrained(*args: Any, **kwargs: Any) -> None:
        """Return None, whatever the checkpoint contains."""
