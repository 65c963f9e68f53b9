from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from vlmprof.models.molmo.image_processing import MolmoImageProcessor, rgb_array
from vlmprof.models.molmo.processing import IMAGE_TOKENS, MolmoProcessor, image_token_ids
from vlmprof.models.molmo.tiling import select_tiling, tiling_counts

PROMPT = " User: what is this Assistant:"


def test_chat_template(processor):
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this"}]}
    assert processor.apply_chat_template([turn], add_generation_prompt=True) == PROMPT
    more = [{"role": "user", "content": "what"}, {"role": "assistant", "content": "red"}]
    assert processor.apply_chat_template(more) == " User: what Assistant: red"
    with pytest.raises(Exception, match="take turns"):
        processor.apply_chat_template([{"role": "assistant", "content": "red"}])


def test_chat_template_with_pictures_to_tensors(processor, make_picture):
    image = Image.fromarray(make_picture(80, 60))
    turn = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "what is this"}]}
    ours = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=True, return_dict=True)
    direct = processor(PROMPT, image)
    assert torch.equal(ours["input_ids"], direct["input_ids"])
    assert torch.equal(ours["pixel_values"], direct["pixel_values"])


@pytest.mark.parametrize("size", [(40, 40), (150, 100), (33, 300), (64, 64)])
@pytest.mark.parametrize("cap", [1, 4, 6])
def test_counts_and_shapes_agree_with_the_prediction(processor, make_picture, size, cap):
    out = processor(PROMPT, make_picture(*size), max_crops=cap)
    geometry = processor.image_processor.geometry
    counts = tiling_counts(select_tiling(*size, cap, geometry), geometry)
    assert tuple(out["image_tilings"][0].tolist()) == counts.tiling
    assert out["image_num_crops"].tolist() == [counts.crops]
    assert out["pixel_values"].shape == (counts.crops, 64, 192) and out["image_masks"].shape == (counts.crops, 64)
    assert out["image_token_pooling"].shape == (counts.vision_tokens, 4)
    assert int((out["input_ids"] == processor.special_ids["patch"]).sum()) == counts.vision_tokens
    text = processor.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    assert out["input_ids"].shape[1] == 1 + counts.image_sequence_tokens + len(text)
    assert out["input_ids"][0, 0] == processor.tokenizer.eos_token_id  # stands in for BOS


def test_windows_show_each_pixel_where_it_is(processor):
    """Pooled cells read back in token order must be the letterboxed canvas, seams or not."""
    images, geometry = processor.image_processor, processor.image_processor.geometry
    tiling = (2, 3)
    height, width = geometry.canvas_px(tiling)
    rows, cols = geometry.pooled_grid(tiling)
    cells = np.arange(rows * cols, dtype=np.uint8).reshape(rows, cols)
    grey = cells.repeat(height // rows, 0).repeat(width // cols, 1)
    out = images.preprocess(np.stack([grey] * 3, -1), tiling=tiling)
    patches = out["pixel_values"].flatten(0, 1)[out["image_token_pooling"]]
    red = (patches.reshape(len(patches), -1, 3)[..., 0] * images.image_std[0] + images.image_mean[0]) * 255
    assert torch.allclose(red[geometry.pooled_per_side**2 :].mean(-1), torch.arange(rows * cols).float(), atol=1e-2)
    assert torch.allclose(red[geometry.pooled_per_side**2 :].std(-1), torch.zeros(rows * cols), atol=1e-2)


def test_batch_is_padded_left_and_flat(processor, make_picture):
    pictures = [make_picture(150, 100, 1), None, make_picture(40, 40, 2)]
    batch = processor([PROMPT, "what is this red", "what"], pictures)
    assert batch["attention_mask"][:, -1].tolist() == [1, 1, 1] and batch["attention_mask"][:, 0].tolist() == [1, 0, 0]
    first, second = processor(PROMPT, pictures[0]), processor("what", pictures[2])
    assert torch.equal(batch["pixel_values"], torch.cat([first["pixel_values"], second["pixel_values"]]))
    shift = first["pixel_values"].shape[0] * 64
    expected = torch.cat([first["image_token_pooling"], second["image_token_pooling"] + shift])
    assert torch.equal(batch["image_token_pooling"], expected)
    valid = batch["attention_mask"][2].bool()
    assert torch.equal(batch["input_ids"][2][valid], second["input_ids"][0])
    assert "pixel_values" not in processor(["what", "is"])


def test_a_picture_that_questions_share_is_encoded_as_if_it_were_alone(processor, make_picture):
    one, other = make_picture(80, 60), make_picture(60, 120)
    batch = processor([PROMPT] * 3, [one, other, one])
    alone = [processor(PROMPT, picture) for picture in (one, other, one)]
    for name in ("pixel_values", "image_masks", "image_tilings"):
        assert torch.equal(batch[name], torch.cat([single[name] for single in alone]))
    cells = [len(single["image_token_pooling"]) for single in alone]
    shift = 64 * len(torch.cat([single["pixel_values"] for single in alone[:2]]))
    last = batch["image_token_pooling"][sum(cells[:2]) :]
    wanted = alone[2]["image_token_pooling"]
    assert torch.equal(last, torch.where(wanted >= 0, wanted + shift, wanted))


def test_a_common_canvas_makes_equal_work(processor, make_picture):
    sizes = [(20, 90), (300, 300), (64, 64)]
    batch = processor([PROMPT] * 3, [make_picture(*size) for size in sizes], tiling=(2, 2))
    assert batch["image_tilings"].tolist() == [[2, 2]] * 3
    assert batch["image_num_crops"].tolist() == [5, 5, 5]
    assert batch["attention_mask"].all()


def test_rotated_photographs_are_turned_upright(processor, make_picture, tmp_path):
    upright = Image.fromarray(make_picture(90, 160))
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate 90 degrees clockwise to view
    sideways.save(tmp_path / "photo.png", exif=exif)
    ours = processor(PROMPT, Image.open(tmp_path / "photo.png"))
    assert torch.equal(ours["pixel_values"], processor(PROMPT, upright)["pixel_values"])
    assert ours["image_tilings"].tolist() == processor(PROMPT, upright)["image_tilings"].tolist()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_colour_modes(make_picture, mode):
    assert rgb_array(Image.fromarray(make_picture(8, 9)).convert(mode)).shape == (8, 9, 3)


def test_save_and_reload_without_torchvision(processor, make_picture, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, MolmoProcessor) and again.image_processor.geometry == processor.image_processor.geometry
    assert again.image_processor.max_crops == 6 and again.chat_template == processor.chat_template
    ours, theirs = (p(PROMPT, make_picture(150, 100)) for p in (processor, again))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_image_processor_alone(processor, tmp_path):
    processor.image_processor.save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(again, MolmoImageProcessor) and again.geometry == processor.image_processor.geometry


def test_the_hub_s_spelling_of_sizes():
    hub = {
        "base_image_input_size": [336, 336],
        "do_normalize": True,
        "image_padding_mask": True,
        "image_patch_size": 14,
        "image_token_length_h": 12,
        "image_token_length_w": 12,
        "max_crops": 12,
        "overlap_margins": [4, 4],
        "processor_class": "MolmoProcessor",
    }
    assert MolmoImageProcessor.from_dict(hub).geometry == MolmoImageProcessor().geometry


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "match"),
    [
        ((["what"], [None, None]), {}, ValueError, "1 prompts but 2 images"),
        ((["what"], [["picture", "picture"]]), {}, ValueError, "prompt 0 has 2 images"),
        ((["what", "what is"],), {"padding": False}, ValueError, "need padding=True"),
        (("what",), {"max_crop": 3}, TypeError, "does not take max_crop"),
        (("what",), {"videos": ["film"]}, TypeError, "does not take videos"),
        (("what", "picture"), {"max_crops": 0}, ValueError, "max_crops must be at least 1"),
        (("what", np.zeros((4, 4), np.uint8)), {}, ValueError, r"\(height, width, 3\) of uint8"),
    ],
)
def test_what_cannot_be_encoded_is_refused(processor, make_picture, arguments, options, kind, match):
    def draw(value):
        if isinstance(value, list):
            return [draw(v) for v in value]
        return make_picture(40, 40) if isinstance(value, str) and value == "picture" else value

    with pytest.raises(kind, match=match):
        processor(*(draw(argument) for argument in arguments), **options)


def test_a_foreign_tokenizer_is_refused(processor, make_picture):
    class Foreign:
        unk_token_id = 0

        def convert_tokens_to_ids(self, token):
            return 0 if token == IMAGE_TOKENS["col"] else 5

    foreign = MolmoProcessor.__new__(MolmoProcessor)
    foreign.tokenizer = Foreign()
    with pytest.raises(ValueError, match="does not know <im_col>"):
        _ = foreign.special_ids


def test_image_tokens_of_the_smallest_picture(processor):
    ids = {"start": 1, "end": 2, "patch": 3, "col": 4}
    block = [1, *([3, 3, 3, 3, 4] * 4), 2]
    assert image_token_ids((1, 1), processor.image_processor.geometry, ids) == block * 2
