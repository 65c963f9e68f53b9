"""Turns prompts and images into Molmo's inputs: BOS, the image's tokens, then the prompt, padded on the left.

The image always comes first, one per prompt: the released models were trained so, and the original code mixes up the
positions of a second image. Source: allenai/molmo ``olmo/data/model_preprocessor.py`` and ``data_formatter.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from vlmprof.models.molmo.image_processing import MolmoImageProcessor, Picture, PlacedPicture
from vlmprof.models.molmo.tiling import Geometry, Tiling

__all__ = ["CHAT_TEMPLATE", "IMAGE_TOKENS", "MolmoImageProcessor", "MolmoProcessor", "Picture", "image_token_ids"]

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if (loop.index % 2 == 1 and message['role'] != 'user') or"
    " (loop.index % 2 == 0 and message['role'] != 'assistant') -%}"
    "{{ raise_exception('Molmo expects user and assistant to take turns, user first') }}"
    "{%- endif -%}"
    "{{ ' ' + (message['role'] | capitalize) + ':' }}"
    "{%- if message['content'] is string -%}{{ ' ' + message['content'] }}"
    "{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ ' ' + part['text'] }}{%- endfor -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ ' Assistant:' }}{%- endif -%}"
)
IMAGE_TOKENS = {"start": "<im_start>", "end": "<im_end>", "patch": "<im_patch>", "col": "<im_col>"}


def image_token_ids(tiling: Tiling, geometry: Geometry, ids: Mapping[str, int]) -> list[int]:
    """Return the token ids of one image: the block of the global view, then that of the stitched grid.

    Args:
        tiling: (rows, cols) of crops.
        geometry: sizes of the model.
        ids: ids of "start", "end", "patch" and "col".
    """
    tokens: list[int] = []
    side = geometry.pooled_per_side
    for rows, cols in ((side, side), geometry.pooled_grid(tiling)):
        tokens += [ids["start"], *([ids["patch"]] * cols + [ids["col"]]) * rows, ids["end"]]
    return tokens


@final
class MolmoProcessor(ProcessorMixin):
    """Prompts and images to model inputs. ``AutoProcessor`` can load it, since it finds this class by name."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @property
    def special_ids(self) -> dict[str, int]:
        """Ids of the image tokens in this tokenizer.

        Raises:
            ValueError: if the tokenizer does not know one of them.
        """
        ids = {name: self.tokenizer.convert_tokens_to_ids(token) for name, token in IMAGE_TOKENS.items()}
        missing = [IMAGE_TOKENS[name] for name, n in ids.items() if n is None or n == self.tokenizer.unk_token_id]
        if missing:
            raise ValueError(
                f"the tokenizer does not know {', '.join(missing)}; Molmo's tokenizers hold them as special tokens, "
                "add them with tokenizer.add_special_tokens"
            )
        return ids

    @property
    def bos_id(self) -> int:
        """Id that starts every sequence: the tokenizer's BOS, or else its EOS, which Molmo then uses as BOS.

        Raises:
            ValueError: if the tokenizer has neither.
        """
        for token_id in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        raise ValueError("the tokenizer has neither a BOS nor an EOS token; Molmo starts every sequence with one")

    def __call__(
        self,
        text: str | Sequence[str],
        images: Any = None,
        *,
        max_crops: int | None = None,
        tiling: Tiling | Sequence[Tiling] | None = None,
        padding: bool = True,
        return_tensors: str | None = "pt",
        **others: Any,
    ) -> BatchFeature:
        """Encode prompts, each with at most one image.

        Args:
            text: complete prompts; ``apply_chat_template`` makes " User: ... Assistant:".
            images: an image, or one entry per prompt: an image, a list of one, or None for a prompt without an image.
            max_crops: cap on high-resolution crops per image; the image processor's own when None.
            tiling: (rows, cols) for every image, or one for each, see ``MolmoImageProcessor.preprocess``.
            padding: whether to pad on the left to the longest sequence. Without, all must be equally long.
            return_tensors: "pt" or "np".
            others: arguments that transformers passes to every processor and Molmo ignores; anything else is refused.

        Returns:
            ``input_ids`` and ``attention_mask`` (batch, sequence), and with images the image processor's outputs.

        Raises:
            ValueError: if the numbers of prompts and images differ, a prompt has several images, or lengths differ
                without padding.
            TypeError: for an argument that is not known.
        """
        _refuse_others(others)
        prompts = [text] if isinstance(text, str) else list(text)
        pictures = _one_per_prompt(images, len(prompts))
        present = [picture for picture in pictures if picture is not None]
        data: dict[str, Any] = {}
        if present:
            data = dict(
                self.image_processor.preprocess(present, max_crops=max_crops, tiling=tiling, return_tensors="np")
            )
        tilings = iter([(int(rows), int(cols)) for rows, cols in data.get("image_tilings", ())])
        rows = [
            self._sequence(prompt, None if picture is None else next(tilings))
            for prompt, picture in zip(prompts, pictures, strict=True)
        ]
        data |= self._left_padded(rows, padding)
        return BatchFeature(data=data, tensor_type=return_tensors)

    def encode_uncut(
        self,
        text: Sequence[str],
        images: Sequence[Picture],
        *,
        max_crops: int | None = None,
        tiling: Sequence[Tiling] | None = None,
    ) -> tuple[BatchFeature, tuple[PlacedPicture, ...]]:
        """Encode prompts with one image each, which are opened and not cut: all outputs but ``pixel_values``.

        Args:
            text: as in a call.
            images: one for each prompt.
            max_crops: as in a call.
            tiling: (rows, cols) for each image; None: chosen under ``max_crops``.

        Returns:
            The outputs, as tensors, and each distinct image with the places of its crops.

        Raises:
            ValueError: as ``MolmoImageProcessor.layout``.
        """
        layout = self.image_processor.layout(images, max_crops=max_crops, tiling=tiling)
        tilings = [(int(rows), int(cols)) for rows, cols in layout.inputs["image_tilings"]]
        rows = [self._sequence(prompt, cut) for prompt, cut in zip(text, tilings, strict=True)]
        data = {**layout.inputs, **self._left_padded(rows, padding=True)}
        return BatchFeature(data=data, tensor_type="pt"), layout.pictures

    def encode_text(self, text: Sequence[str], tilings: Sequence[Tiling]) -> BatchFeature:
        """Encode prompts with one image each, without pixel inputs, for images whose features are already computed.

        Args:
            text: as in a call.
            tilings: (rows, cols) that each image was cut into.
        """
        rows = [self._sequence(prompt, tiling) for prompt, tiling in zip(text, tilings, strict=True)]
        return BatchFeature(data=self._left_padded(rows, padding=True), tensor_type="pt")

    def _sequence(self, prompt: str, tiling: Tiling | None) -> list[int]:
        image = [] if tiling is None else image_token_ids(tiling, self.image_processor.geometry, self.special_ids)
        return [self.bos_id, *image, *self._text_ids(prompt)]

    def _text_ids(self, text: str) -> list[int]:
        """The tokens of a text, whole: nothing is truncated, and what looks like a special token is spelled out.

        Raises:
            ValueError: the text holds an image token that the tokenizer cannot spell out.
        """
        options = {"add_special_tokens": False, "truncation": False, "padding": False, "split_special_tokens": True}
        ids: list[int] = self.tokenizer(text, **options)["input_ids"]
        found = [IMAGE_TOKENS[name] for name, token_id in self.special_ids.items() if token_id in ids]
        if found:
            raise ValueError(f"the text holds {', '.join(found)}, which this tokenizer cannot write as text")
        return ids

    def _left_padded(self, rows: list[list[int]], padding: bool) -> dict[str, Any]:
        longest = max(map(len, rows))
        if not padding and any(len(row) != longest for row in rows):
            raise ValueError(f"sequences of {sorted(set(map(len, rows)))} tokens need padding=True to be a batch")
        # The id of padding does not matter, because it is masked; without a padding token any valid id will do.
        pad = self.bos_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        return {
            "input_ids": np.array([[pad] * (longest - len(row)) + row for row in rows], dtype=np.int64),
            "attention_mask": np.array([[0] * (longest - len(row)) + [1] * len(row) for row in rows], dtype=np.int64),
        }


def _refuse_others(others: Mapping[str, Any]) -> None:
    ignored = ("add_special_tokens", "videos", "audio", "text_kwargs", "images_kwargs")
    refused = {key: value for key, value in others.items() if key not in ignored or (key not in ignored[:1] and value)}
    if refused:
        raise TypeError(
            f"MolmoProcessor does not take {', '.join(refused)}; it takes text, images, max_crops, tiling, padding "
            "and return_tensors"
        )


def _one_per_prompt(images: Any, prompts: int) -> list[Picture | None]:
    if images is None:
        return [None] * prompts
    entries = list(images) if isinstance(images, (list, tuple)) else [images]
    if len(entries) != prompts:
        raise ValueError(f"{prompts} prompts but {len(entries)} images; give one entry per prompt, None for no image")
    pictures: list[Picture | None] = []
    for index, entry in enumerate(entries):
        group = list(entry) if isinstance(entry, (list, tuple)) else [entry]
        if len(group) > 1:
            raise ValueError(f"prompt {index} has {len(group)} images; Molmo v1 takes one; join them into one")
        pictures.append(group[0] if group else None)
    return pictures
