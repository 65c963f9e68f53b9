"""Small data sets with exactly the public schemas, every column of them, as files of the repositories' own layout."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

QUESTIONS, PER_PICTURE = 12, 2
Row = dict[str, Any]


def picture(number: int, kind: str = "PNG") -> bytes:
    """A picture of its own for each number; sizes and shapes vary."""
    image = Image.new("RGB", (40 + 8 * (number % 5), 32 + 4 * (number % 7)), (number * 37 % 256, 90, number * 11 % 256))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def cell(number: int) -> Row:
    """A cell of the Hub's image type."""
    return {"bytes": picture(number), "path": f"{number:06d}.png"}


def _vqa_v2(n: int) -> Row:
    people = [{"answer": "yes", "answer_confidence": "yes", "answer_id": k + 1} for k in range(10)]
    return {
        "question_type": "is this",
        "multiple_choice_answer": "yes",
        "answers": people,
        "image_id": n // PER_PICTURE,
        "answer_type": ("yes/no", "number", "other")[n % 3],
        "question_id": 1000 + n,
        "question": f"Is this picture {n}?",
        "image": cell(n // PER_PICTURE),
    }


def _text_vqa(n: int) -> Row:
    return {
        "image_id": f"img{n // PER_PICTURE}",
        "question_id": 34602 + n,
        "question": f"what does sign {n} say?",
        "question_tokens": ["what"],
        "image": cell(n // PER_PICTURE),
        "image_width": 40,
        "image_height": 32,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": ["stop"] * 10,
        "image_classes": ["Sign"],
        "set_name": "val",
        "ocr_tokens": ["STOP"],
    }


def _ok_vqa(n: int) -> Row:
    return {
        "question_id": str(2000 + n),
        "image": cell(n),
        "question": f"What sport is {n}?",
        "answers": ["race"] * 10,
        "question_type": ("one", "eight", "other")[n % 3],
        "answer_type": "other",
    }


def _science_qa_img(n: int) -> Row:
    return {
        "image": cell(n),
        "question": f"Which is true of {n}?",
        "choices": ["solid", "liquid", "gas"],
        "answer": n % 3,
        "hint": "Look at the picture." if n % 2 else "",
        "task": "closed choice",
        "grade": "grade4",
        "subject": ("natural science", "social science")[n % 2],
        "topic": "physics",
        "category": "Materials",
        "skill": "Identify",
        "lecture": "",
        "solution": "",
    }


def _st_vqa(n: int) -> Row:
    return {
        "file_path": f"coco-text/{n // PER_PICTURE}.jpg",
        "file_name": f"{n // PER_PICTURE}.jpg",
        "question": f"What is written on {n}?",
        "answers": ["exit", "EXIT"],
        "question_id": n,
        "dataset": ("coco-text", "vizwiz")[n % 2],
        "set_name": "train",
    }


def _doc_vqa(n: int) -> Row:
    return {
        "questionId": str(49153 + n),
        "question": f"What is on line {n}?",
        "question_types": ["layout", "form"],
        "image": cell(n),
        "docId": n,
        "ucsf_document_id": f"xnbl00{n // PER_PICTURE}",
        "ucsf_document_page_no": "1",
        "answers": ["University of California", "UC"],
        "data_split": "val",
    }


def _info_vqa(n: int) -> Row:
    return {
        "questionId": str(9800 + n),
        "question": f"What share has {n}?",
        "answers": ["54%"],
        "answer_type": ["single span"],
        "image": cell(n),
        "image_url": "https://example.org/a.png",
        "operation/reasoning": ["none"],
        "ocr": "{}",
        "data_split": "val",
    }


def _tally_qa(n: int) -> Row:
    return {
        "image": f"VG_100K_2/{n // PER_PICTURE}.jpg",
        "answer": n % 4,
        "data_source": "imported_genome",
        "question": f"How many of {n} are there?",
        "image_id": n // PER_PICTURE,
        "question_id": 30 + n,
        "issimple": n % 2 == 0,
    }


def _coco_caption(n: int) -> Row:
    nouns = ["man", "dog", "cat", "bus", "bench", "horse", "kite", "boat", "pizza", "train", "clock", "zebra"]
    return {
        "question_id": f"COCO_val2014_{n:012d}.jpg",
        "image": cell(n),
        "question": "Please carefully observe the image and come up with a caption for the image",
        "answer": [f"a {nouns[n]} near a red {nouns[-n - 1]} on the street", f"the {nouns[n]} is outside today"],
        "id": n,
        "license": 3,
        "file_name": f"COCO_val2014_{n:012d}.jpg",
        "coco_url": "",
        "height": 32,
        "width": 40,
        "date_captured": "2013-11-14",
    }


def _mmmu(n: int) -> Row:
    several = n % 4 == 3
    open_ended = n % 6 == 5
    return {
        "id": f"validation_Accounting_{n + 1}",
        "question": f"<image 1> shows {n}. What follows?" + (" See <image 2>." if several else ""),
        "options": "[]" if open_ended else "['\\\\$6', '\\\\$7', '\\\\$8', '\\\\$9']",
        "explanation": "",
        **{f"image_{k}": cell(n) if k == 1 or (several and k == 2) else None for k in range(1, 8)},
        "img_type": "['Tables']",
        "answer": "['8.5', 'eight and a half']" if open_ended else "B",
        "topic_difficulty": "Medium",
        "question_type": "open" if open_ended else "multiple-choice",
        "subfield": "Financial Accounting",
    }


def _chart_qa(n: int) -> Row:
    return {"image": cell(n), "query": f"What is bar {n}?", "label": [str(10 + n)], "human_or_machine": n % 2}


def _ai2d(n: int) -> Row:
    options = ["leaf", "root", "stem", "seed"]
    return {"question": f"Which is {n}?", "options": options, "answer": str(n % 4), "image": cell(n)}


def _a_ok_vqa(n: int) -> Row:
    return {
        "image": cell(n),
        "question_id": f"22jbM6gDxdaMaunuzgrsB{n}",
        "question": f"Why is {n} here?",
        "choices": ["waiting", "eating", "driving", "asleep"],
        "correct_choice_idx": n % 4,
        "direct_answers": "['waiting', 'eating']",
        "difficult_direct_answer": False,
        "rationales": ["because"],
    }


def _gqa(n: int) -> Row:
    return {
        "id": f"2018{n:04d}",
        "imageId": f"n{n // PER_PICTURE}",
        "question": f"Is {n} on the left?",
        "answer": "yes",
        "fullAnswer": "Yes, it is.",
        "isBalanced": True,
        "groups": {"global": "", "local": "x"},
        "entailed": "",
        "equivalent": "",
        "types": {"structural": ("verify", "query")[n % 2], "semantic": "rel", "detailed": "relVerify"},
        "annotations": None,
        "semantic": [],
        "semanticStr": "",
    }


def _gqa_picture(n: int) -> Row:
    return {"id": f"n{n}", "image": cell(n)}


def _pope(n: int) -> Row:
    return {
        "id": str(n),
        "question_id": str(n // 3),  # counted anew in each category
        "question": f"Is there a thing {n} in the image?",
        "answer": ("yes", "no")[n % 2],
        "image_source": f"COCO_val2014_{n // 6}",
        "image": cell(n // 6),
        "category": ("adversarial", "popular", "random")[n % 3],
    }


def _realworld_qa(n: int) -> Row:
    asked = f"Where is {n}?\nA. Left\nB. Right\nAnswer with the letter."
    return {"image": cell(n), "question": asked, "answer": "AB"[n % 2]}


ROWS: Mapping[str, Callable[[int], Row]] = {
    "vqa_v2": _vqa_v2,
    "text_vqa": _text_vqa,
    "ok_vqa": _ok_vqa,
    "science_qa_img": _science_qa_img,
    "st_vqa": _st_vqa,
    "doc_vqa": _doc_vqa,
    "info_vqa": _info_vqa,
    "tally_qa": _tally_qa,
    "coco_caption": _coco_caption,
    "mmmu": _mmmu,
    "chart_qa": _chart_qa,
    "ai2d": _ai2d,
    "a_ok_vqa": _a_ok_vqa,
    "gqa": _gqa,
    "pope": _pope,
    "realworld_qa": _realworld_qa,
}


def write(folder: Path, name: str, pattern: str, *, backwards: bool = False) -> Path:
    """The data set ``name`` in a folder, its rows in this order or the other way round; the folder comes back."""
    rows = [ROWS[name](n) for n in range(QUESTIONS)]
    rows = rows[::-1] if backwards else rows
    file = folder / pattern.replace("*", "00000-of-00001")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        file.write_text(json.dumps({"data": rows}))
        for n in range(QUESTIONS // PER_PICTURE):
            for place in ("coco-text", "VG_100K_2"):
                (folder / place).mkdir(exist_ok=True)
                (folder / place / f"{n}.jpg").write_bytes(picture(n, "JPEG"))
    else:
        write_parquet(file, rows)
    if name == "gqa":
        pictures = folder / "testdev_balanced_images/testdev-00000-of-00001.parquet"
        pictures.parent.mkdir()
        write_parquet(pictures, [_gqa_picture(n) for n in range(QUESTIONS // PER_PICTURE)])
    return folder


def write_parquet(file: Path, rows: list[Row]) -> None:
    """In row groups of five, so that the place of a row inside its group is put to the test."""
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, file, row_group_size=5)
