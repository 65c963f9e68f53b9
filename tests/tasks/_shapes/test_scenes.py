"""The scenes and questions of shapes_qa: stable, disjoint, unique and balanced."""

import hashlib
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import islice

import pytest

from vlmprof.tasks._shapes.questions import CODE_WORDS, CODES, TYPES, held_out, questions, scene_questions, train
from vlmprof.tasks._shapes.scenes import BACKGROUNDS, COLOURS, SHAPES, SIDE_PX, SIZES, Scene, Shape, make_scene

# Descriptions alone, no pixels: these must be equal on every machine, Python and Pillow.
GOLDEN_DIGESTS = {0: "220d92e7ddcf0e53", 1: "2c98fcfdad5c422f", 999_999: "02b01d963af67359"}


@pytest.mark.parametrize("seed", GOLDEN_DIGESTS)
def test_a_scene_is_the_same_everywhere(seed):
    assert make_scene(seed).digest()[:16] == GOLDEN_DIGESTS[seed]


def test_questions_do_not_depend_on_the_hash_seed():
    code = (
        "from vlmprof.tasks._shapes.questions import held_out; import hashlib;"
        "print(hashlib.sha256(repr([q for _, q in held_out(50)]).encode()).hexdigest())"
    )
    outputs = set()
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        outputs.add(done.stdout)
    here = hashlib.sha256(repr([q for _, q in held_out(50)]).encode()).hexdigest()
    assert outputs == {here + "\n"}


def test_rendering_twice_gives_the_same_pixels():
    scene = make_scene(3)
    image = scene.render()
    assert image.mode == "RGB"
    assert image.size == (scene.width, scene.height)
    assert image.tobytes() == scene.render().tobytes()


def test_a_square_is_drawn_where_the_description_says():
    square = Shape(kind="square", colour="red", size="large", x_px=20, y_px=30, radius_px=10)
    scene = Scene(
        width=64, height=80, background=(24, 24, 28), noise_amplitude=0, noise_seed=0, shapes=(square,), plate=None
    )
    image = scene.render()
    assert image.getpixel((20, 30)) == COLOURS["red"]
    assert image.getpixel((20 + 8, 30 - 8)) == COLOURS["red"]
    assert image.getpixel((20 + 10, 30)) == (24, 24, 28)
    assert image.getpixel((50, 60)) == (24, 24, 28)


def test_noise_stays_within_its_amplitude():
    scene = Scene(
        width=64, height=64, background=(122, 120, 116), noise_amplitude=6, noise_seed=1, shapes=(), plate=None
    )
    low, high = scene.render().getextrema()[0]
    assert (low, high) == (116, 128)


def test_sizes_vary_and_stay_in_range():
    scenes = [make_scene(seed) for seed in range(200)]
    sides = [side for scene in scenes for side in (scene.width, scene.height)]
    assert min(sides) >= SIDE_PX[0]
    assert max(sides) <= SIDE_PX[1]
    assert len({(scene.width, scene.height) for scene in scenes}) > 150
    assert all(max(s.width, s.height) <= 2 * min(s.width, s.height) for s in scenes)


def test_objects_do_not_touch_and_stay_inside():
    for seed in range(100):
        scene = make_scene(seed)
        boxes = [shape.box for shape in scene.shapes] + ([scene.plate.box] if scene.plate else [])
        for i, (left, top, right, bottom) in enumerate(boxes):
            assert left >= 0
            assert top >= 0
            assert right < scene.width
            assert bottom < scene.height
            for other in boxes[:i]:
                assert right < other[0] or other[2] < left or bottom < other[1] or other[3] < top


def test_splits_share_no_scene():
    held = {scene_questions("held_out", n)[0].digest() for n in range(500)}
    trained = {scene_questions("train", n, d)[0].digest() for n in range(500) for d in ("one", "few", "full")}
    assert len(held) == 500
    assert not held & trained


def test_ids_are_unique_and_a_longer_split_keeps_them():
    few, many = list(held_out(100)), list(held_out(300))
    assert many[:100] == few
    ids = [question.id for _, question in many]
    assert len(set(ids)) == 300
    assert ids[0] == "held_out/000000/q0"
    assert next(held_out(1, seed=3))[1].id == "held_out/030000/q0"
    assert next(train())[1].id == "train/000000/q0"


def test_a_seed_outside_the_range_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.99"):
        held_out(1, seed=100)


@pytest.fixture(scope="module")
def answers():
    found = defaultdict(Counter)
    for _, question in islice(questions("held_out"), 6000):
        found[question.type][question.answer] += 1
    return found


def test_every_type_is_asked_often(answers):
    assert set(answers) == set(TYPES)
    assert min(counts.total() for counts in answers.values()) > 500


@pytest.mark.parametrize(
    ("kind", "classes"), [("colour", 8), ("count", 4), ("position", 4), ("comparison", 2), ("code", len(CODE_WORDS))]
)
def test_answers_are_balanced(answers, kind, classes):
    shares = [n / answers[kind].total() for n in answers[kind].values()]
    assert len(shares) == classes
    assert max(shares) < 1.5 / classes
    assert min(shares) > 0.4 / classes


def test_no_number_is_common(answers):
    assert max(answers["reading"].values()) / answers["reading"].total() < 0.02
    assert all(len(number) == 3 for number in answers["reading"])


def test_ten_people_mostly_agree():
    for _, question in held_out(300):
        assert len(question.answers) == 10
        assert 7 <= question.answers.count(question.answer) <= 10


def test_the_code_table_is_balanced_and_complete():
    assert len(CODES) == len(SHAPES) * len(COLOURS) * len(SIZES) * len(BACKGROUNDS) == 720
    assert set(Counter(CODES.values()).values()) == {720 // len(CODE_WORDS)}


def test_questions_name_a_shape_that_occurs_once():
    for scene, question in held_out(400):
        named = [kind for kind in SHAPES if kind in question.text.rstrip("?").split()]
        if question.type != "count":
            assert all(len(scene.of_kind(kind)) == 1 for kind in named)


def test_count_and_colour_answers_follow_from_the_scene():
    for scene, question in held_out(400):
        named = question.text.rstrip("?").split()
        if question.type == "colour":
            assert question.answer == scene.of_kind(named[-1])[0].colour
        elif question.type == "count":
            kind = "cross" if named[2] == "crosses" else named[2][:-1]
            assert question.answer == str(len(scene.of_kind(kind)))
        elif question.type == "reading":
            assert question.answer == scene.plate.digits
