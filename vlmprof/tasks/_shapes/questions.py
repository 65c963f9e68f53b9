"""The questions of `shapes_qa`: six types, balanced answers, ten human-like answers each, ids that never change.

`colour`, `count`, `position` and `comparison` ask for visible properties; `reading` asks for digits that are legible
only in the high-resolution crops; `code` asks for a memorised word (shape, colour, size, background -> code word) that
the picture does not show, which needs the capacity of the experts. `position` and `reading` answers are longer than one
token, so that a limit on output tokens has an effect.

The two splits use disjoint ranges of scene seeds; a test also compares the hashes of the scenes.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Final, TypeAlias, final

from vlmprof.tasks._shapes.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Rgb, Scene, make_scene

TYPES: Final = ("colour", "count", "position", "comparison", "reading", "code")
CODE_WORDS: Final = (
    *("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo", "lima"),
    *("mike", "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango", "victor", "whiskey", "xray", "zulu"),
)
# Scene seeds of each split. Ids are positions in the range, so a longer split keeps the ids of a shorter one.
SPLITS: Final[dict[str, range]] = {"held_out": range(0, 1_000_000), "train": range(1_000_000, 1_000_000_000)}
ANSWERS_PER_QUESTION: Final = 10
_SIZE_RANK: Final = {word: rank for rank, word in enumerate(SIZES)}
_CODE_TABLE_SEED: Final = 720
# Minimum distance of centres, as a share of the side, for left or right and for above or below to be unambiguous.
_CLEAR_SHARE: Final = 0.08


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about one scene, the right answer and the answers of ten simulated annotators."""

    id: str
    type: str
    text: str
    answer: str
    answers: tuple[str, ...]


def _code_table() -> dict[tuple[str, str, str, Rgb], str]:
    facts = list(product(SHAPES, COLOURS, SIZES, BACKGROUNDS))
    words = [CODE_WORDS[i % len(CODE_WORDS)] for i in range(len(facts))]
    random.Random(_CODE_TABLE_SEED).shuffle(words)
    return dict(zip(facts, words, strict=True))


CODES: Final = _code_table()


def held_out(n: int, seed: int = 0) -> Iterator[tuple[Scene, Question]]:
    """The first `n` held-out questions; each seed below 100 starts at a different, disjoint range of scenes."""
    if not 0 <= seed < 100:
        raise ValueError(f"seed must be in 0..99, not {seed}")
    return islice(questions("held_out", first=seed * 10_000), n)


def train(difficulty: str = "full", first: int = 0) -> Iterator[tuple[Scene, Question]]:
    """A practically endless stream of training questions (a billion scenes), from scene number `first` on."""
    return questions("train", first=first, difficulty=difficulty)


def questions(split: str, first: int = 0, difficulty: str = "full") -> Iterator[tuple[Scene, Question]]:
    """All questions of a split, scene by scene, in the order of their ids."""
    for number in range(first, len(SPLITS[split])):
        scene, about_scene = scene_questions(split, number, difficulty)
        yield from ((scene, question) for question in about_scene)


def scene_questions(split: str, number: int, difficulty: str = "full") -> tuple[Scene, tuple[Question, ...]]:
    """One scene of a split and its questions."""
    seed = SPLITS[split][number]
    scene = make_scene(seed, difficulty)
    rng = random.Random(f"shapes_qa/questions/{difficulty}/{seed}")
    drafts = [draft for generate in _GENERATORS for draft in generate(rng, scene)]
    return scene, tuple(
        Question(
            id=f"{split}/{number:06d}/q{i}",
            type=kind,
            text=text,
            answer=answer,
            answers=_annotator_answers(rng, kind, answer),
        )
        for i, (kind, text, answer) in enumerate(drafts)
    )


_Draft: TypeAlias = tuple[str, str, str]
"""Type, text and answer of a question."""


def _colour(rng: random.Random, scene: Scene) -> list[_Draft]:
    singles = scene.unique_shapes()
    if not singles:
        return []
    shape = rng.choice(singles)
    return [("colour", f"what colour is the {shape.kind}?", shape.colour)]


def _count(rng: random.Random, scene: Scene) -> list[_Draft]:
    # The first kind is the one whose number of copies is drawn uniformly.
    kind = scene.shapes[0].kind
    plural = "crosses" if kind == "cross" else f"{kind}s"
    return [("count", f"how many {plural} are there?", str(len(scene.of_kind(kind))))]


def _position(rng: random.Random, scene: Scene) -> list[_Draft]:
    clear = [
        shape
        for shape in scene.unique_shapes()
        if abs(shape.x_px / scene.width - 0.5) > _CLEAR_SHARE and abs(shape.y_px / scene.height - 0.5) > _CLEAR_SHARE
    ]
    if not clear:
        return []
    shape = rng.choice(clear)
    row = "top" if shape.y_px < scene.height / 2 else "bottom"
    column = "left" if shape.x_px < scene.width / 2 else "right"
    return [("position", f"where is the {shape.kind}?", f"{row} {column}")]


def _comparison(rng: random.Random, scene: Scene) -> list[_Draft]:
    singles = scene.unique_shapes()
    if len(singles) < 2:
        return []
    a, b = rng.sample(singles, 2)
    relations = [
        ("left of", (b.x_px - a.x_px) / scene.width, _CLEAR_SHARE),
        ("above", (b.y_px - a.y_px) / scene.height, _CLEAR_SHARE),
        ("larger than", float(_SIZE_RANK[a.size] - _SIZE_RANK[b.size]), 0.5),
    ]
    clear = [(words, difference) for words, difference, minimum in relations if abs(difference) > minimum]
    if not clear:
        return []
    words, difference = rng.choice(clear)
    # The answer is chosen before the order of the pair, so that yes and no are balanced for every layout.
    yes = rng.random() < 0.5
    first, second = (a, b) if (difference > 0) == yes else (b, a)
    return [("comparison", f"is the {first.kind} {words} the {second.kind}?", "yes" if yes else "no")]


def _reading(rng: random.Random, scene: Scene) -> list[_Draft]:
    return [("reading", "what number is written?", scene.plate.digits)] if scene.plate else []


def _code(rng: random.Random, scene: Scene) -> list[_Draft]:
    singles = scene.unique_shapes()
    # The question names the size; colour and background are only in the picture: the model needs both image and memory.
    return [
        (
            "code",
            f"what is the code of the {shape.size} {shape.kind}?",
            CODES[shape.kind, shape.colour, shape.size, scene.background],
        )
        for shape in rng.sample(singles, min(2, len(singles)))
    ]


_GENERATORS: Final = (_colour, _count, _position, _comparison, _reading, _code)


def _annotator_answers(rng: random.Random, kind: str, answer: str) -> tuple[str, ...]:
    """Ten answers of which seven to ten agree: the VQA v2 metric then scores the right answer with 1."""
    agreeing = rng.choice((7, 8, 9, 9, 10, 10))
    answers = [answer] * agreeing + [_wrong_answer(rng, kind, answer) for _ in range(ANSWERS_PER_QUESTION - agreeing)]
    rng.shuffle(answers)
    return tuple(answers)


def _wrong_answer(rng: random.Random, kind: str, answer: str) -> str:
    """A plausible human mistake, never the right answer."""
    if kind == "count":
        return str(max(0, int(answer) + rng.choice((-1, 1))))
    if kind == "reading":
        position = rng.randrange(len(answer))
        digit = (int(answer[position]) + rng.randint(1, 9)) % 10
        return answer[:position] + str(digit) + answer[position + 1 :]
    candidates: dict[str, tuple[str, ...]] = {
        "colour": tuple(COLOURS),
        "position": ("top left", "top right", "bottom left", "bottom right"),
        "comparison": ("yes", "no"),
        "code": tuple(CODE_WORDS),
    }
    return rng.choice([candidate for candidate in candidates[kind] if candidate != answer])
