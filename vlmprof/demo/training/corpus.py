"""The training data as dense tensors: scenes are rendered, tiled and tokenized once, before training.

Rendering a scene takes longer than a training step spends on it, and worker processes that send pixels through pipes
are slower still (measured on a GPU: 4 steps a second, all of that time spent waiting). So each scene is tiled once,
under one limit on crops that depends on its number, and all scenes of one tiling form a bucket whose batches are dense.
For training on a GPU, whole buckets are moved there.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

from vlmprof.demo.config import demo_image_processor
from vlmprof.demo.tokenizer import IMAGE_TOKENS, build_tokenizer
from vlmprof.demo.training.labels import IGNORE, dense_labels
from vlmprof.models.molmo.image_processing import MolmoImageProcessor, pooling_windows
from vlmprof.models.molmo.processing import image_token_ids
from vlmprof.models.molmo.tiling import Tiling, select_tiling
from vlmprof.tasks._shapes.questions import TYPES, Question, scene_questions
from vlmprof.tasks._shapes.scenes import Scene

MAX_QUESTIONS: Final = 7
MAX_TOKENS: Final = 12
_ID_NAMES: Final = ("start", "end", "patch", "col")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SceneBatch:
    """Scenes of one tiling with all their questions; the first dimension is the scene.

    `pixels` uint8 (n, crops, patches, values), `masks` (n, crops, patches), `labels` (n, tokens, heads),
    `tokens`, `targets` (n, questions, tokens), `types` (n, questions), with -1 as padding for scenes with fewer
    questions.
    """

    tiling: Tiling
    pixels: Tensor
    masks: Tensor
    labels: Tensor
    tokens: Tensor
    targets: Tensor
    types: Tensor

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.pixels)

    def pick(self, rows: Tensor | slice) -> "SceneBatch":
        """The scenes of the given rows."""
        return SceneBatch(tiling=self.tiling, **{name: getattr(self, name)[rows] for name in _TENSORS})

    @staticmethod
    def merged(parts: Sequence["SceneBatch"]) -> list["SceneBatch"]:
        """One bucket per tiling, from buckets that were built separately."""
        by_tiling: dict[tuple[int, int], list[SceneBatch]] = {}
        for part in sorted(parts, key=lambda part: part.tiling):
            by_tiling.setdefault(part.tiling, []).append(part)
        return [
            SceneBatch(tiling=tiling, **{name: torch.cat([getattr(part, name) for part in group]) for name in _TENSORS})
            for tiling, group in by_tiling.items()
        ]

    def to(self, device: torch.device | str) -> "SceneBatch":
        """A copy on the given device."""
        return SceneBatch(tiling=self.tiling, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def state(self) -> dict[str, Any]:
        """The fields as a dictionary, for `torch.save`."""
        return {"tiling": self.tiling, **{name: getattr(self, name) for name in _TENSORS}}


_TENSORS: Final = ("pixels", "masks", "labels", "tokens", "targets", "types")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What all images of a tiling have in common.

    `prefix` (tokens,) are the ids before the questions, `windows` (vision tokens, patches) the patches that each vision
    token pools.
    """

    prefix: Tensor
    windows: Tensor

    @classmethod
    def of(cls, tiling: Tiling) -> "Layout":
        """The layout of a tiling, for the demo model."""
        tokenizer, geometry = build_tokenizer(), demo_image_processor().geometry
        ids = dict(zip(_ID_NAMES, tokenizer.convert_tokens_to_ids(IMAGE_TOKENS[:4]), strict=True))
        prefix = [tokenizer.bos_token_id, *image_token_ids(tiling, geometry, ids)]
        return cls(prefix=torch.tensor(prefix), windows=torch.from_numpy(pooling_windows(tiling, geometry)))


def build_corpus(split: str, numbers: Iterable[int], difficulty: str, caps: Sequence[int]) -> list[SceneBatch]:
    """One dense bucket per tiling. Scene `n` is tiled under `caps[n % len(caps)]`; repeat a cap to weight it."""
    processor, tokenizer = demo_image_processor(), build_tokenizer()
    rows: dict[Tiling, list[dict[str, np.ndarray]]] = defaultdict(list)
    for number in numbers:
        scene, questions = scene_questions(split, number, difficulty)
        tiling = select_tiling(scene.height, scene.width, caps[number % len(caps)], processor.geometry)
        rows[tiling].append(_picture_row(scene, tiling, processor) | _text_row(questions, tokenizer))
    return [
        SceneBatch(
            tiling=tiling,
            **{name: torch.from_numpy(np.stack([row[name] for row in rows[tiling]])) for name in _TENSORS},
        )
        for tiling in sorted(rows)
    ]


def normalise(pixels: Tensor) -> Tensor:
    """Pixel bytes -> the values that the image processor returns, to within half a grey level."""
    mean, std = _pixel_statistics(str(pixels.device))
    values: Tensor = ((pixels.float() / 255).unflatten(-1, (-1, 3)) - mean).div(std).flatten(-2)
    return values


@lru_cache(maxsize=4)
def _pixel_statistics(device: str) -> tuple[Tensor, Tensor]:
    processor = demo_image_processor()
    return torch.tensor(processor.image_mean, device=device), torch.tensor(processor.image_std, device=device)


def describe(corpus: list[SceneBatch]) -> str:
    """One line: the number of scenes and questions, and the scenes of each tiling."""
    tilings = Counter({f"{batch.tiling[0]}x{batch.tiling[1]}": len(batch) for batch in corpus})
    questions = sum(int((batch.types >= 0).sum()) for batch in corpus)
    return f"{sum(tilings.values())} scenes, {questions} questions, tilings {dict(tilings.most_common())}"


def _picture_row(scene: Scene, tiling: Tiling, processor: MolmoImageProcessor) -> dict[str, np.ndarray]:
    views = processor.preprocess(scene.render(), tiling=tiling, return_tensors="np")
    values = views["pixel_values"]
    channels = values.shape[-1] // 3
    grey = values * np.tile(processor.image_std, channels) + np.tile(processor.image_mean, channels)
    return {
        "pixels": np.round(grey * 255).clip(0, 255).astype(np.uint8),
        "masks": views["image_masks"].astype(np.float16),
        "labels": dense_labels(scene, tiling, processor.geometry),
    }


def _text_row(questions: Sequence[Question], tokenizer: Any) -> dict[str, np.ndarray]:
    tokens = np.full((MAX_QUESTIONS, MAX_TOKENS), tokenizer.pad_token_id, dtype=np.int16)
    targets = np.full((MAX_QUESTIONS, MAX_TOKENS), IGNORE, dtype=np.int16)
    types = np.full(MAX_QUESTIONS, -1, dtype=np.int8)
    for i, question in enumerate(questions):
        prompt = tokenizer(f" User: {question.text} Assistant:", add_special_tokens=False)["input_ids"]
        answer = tokenizer(f" {question.answer}", add_special_tokens=False)["input_ids"]
        tokens[i, : len(prompt) + len(answer)] = prompt + answer
        targets[i, len(prompt) - 1 : len(prompt) + len(answer)] = [*answer, tokenizer.eos_token_id]
        types[i] = TYPES.index(question.type)
    return {"tokens": tokens, "targets": targets, "types": types}
