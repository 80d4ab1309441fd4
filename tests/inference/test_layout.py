"""Labels cover no face, no other label, and stay inside, whatever the faces are."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given, settings

from affectnet.data.crop import Box
from affectnet.inference.layout import clip, free_corner, place_labels, place_tags


def covers(a: Box, b: Box) -> bool:
    """An independent reading: two rectangles share more than a border."""
    wide = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    high = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    return wide > 1e-9 and high > 1e-9


def inside(box: Box, size: tuple[float, float]) -> bool:
    ends = box.x + box.width <= size[0] + 1e-9 and box.y + box.height <= size[1] + 1e-9
    return box.x >= 0 and box.y >= 0 and ends


@st.composite
def pictures(draw):
    """A picture from 60 pixels up with faces anywhere, partly outside too, and their labels."""
    wide, high = draw(st.integers(60, 1500)), draw(st.integers(60, 1500))
    side = st.floats(1, 900)
    box = st.builds(Box, st.floats(-200, wide + 50), st.floats(-200, high + 50), side, side)
    boxes = draw(st.lists(box, min_size=0, max_size=14))
    sizes = st.tuples(st.integers(20, 220), st.integers(11, 60))
    choices = [[large, (large[0] * 0.6, large[1] * 0.6)] for large in (draw(sizes) for _ in boxes)]
    return (wide, high), boxes, choices


@given(pictures())
@settings(max_examples=150, deadline=None)
def test_no_label_covers_a_face_or_a_label_or_leaves_the_picture(picture) -> None:
    size, boxes, choices = picture
    labels = place_labels(size, boxes, choices, 4)
    assert len(labels) == len(boxes)
    placed = [label.place for label in labels if label is not None]
    for i, label in enumerate(labels):
        if label is None:
            continue
        assert label.place[2:] == choices[i][label.choice]
        assert inside(label.place, size)
        assert not any(covers(label.place, clip(box, size)) for box in boxes)
    for i, one in enumerate(placed):
        assert not any(covers(one, other) for other in placed[i + 1 :])
    corner = free_corner(size, 50, 4, [*(clip(box, size) for box in boxes), *placed])
    if corner is not None:
        assert inside(corner, size)
        assert not any(covers(corner, other) for other in (*boxes, *placed))


@given(pictures())
@settings(max_examples=60, deadline=None)
def test_tags_are_inside_their_boxes_and_apart(picture) -> None:
    size, boxes, _ = picture
    tags = place_tags(size, boxes, [(14, 15)] * len(boxes))
    for i, tag in enumerate(tags):
        if tag is not None:
            box = clip(boxes[i], size)
            assert box.x <= tag.x <= tag.x + tag.width <= box.x + box.width + 1e-9
            assert box.y <= tag.y <= tag.y + tag.height <= box.y + box.height + 1e-9
            assert not any(covers(tag, other) for other in tags[i + 1 :] if other is not None)


@given(st.integers(60, 900), st.integers(60, 900), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_label_with_room_above_or_below_gets_it(wide, high, seed) -> None:
    rng = np.random.default_rng(seed)
    box = Box(*rng.uniform(0, 0.6, 2) * (wide, high), *rng.uniform(0.05, 0.4, 2) * (wide, high))
    label = (min(150, wide), 30)
    room = max(box.y, high - box.y - box.height) >= 30 + 4
    found = place_labels((wide, high), [box], [[label]], 4)[0]
    assert (found is not None) or not room


def test_faces_without_room_have_none_and_the_others_keep_theirs() -> None:
    full = Box(0, 0, 300, 200)
    assert place_labels((300, 200), [full], [[(80, 30)]], 4) == [None]
    # With the long label of the first face, the second one would have no room.
    boxes = [Box(0, 40, 100, 160), Box(105, 40, 95, 160)]
    labels = place_labels((200, 200), boxes, [[(150, 30), (90, 30)]] * 2, 4)
    assert [label.choice for label in labels if label] == [1, 1]


def test_the_circumplex_takes_the_first_free_corner() -> None:
    size = (400, 300)
    assert free_corner(size, 80, 5, []) == (315, 215, 80, 80)
    assert free_corner(size, 80, 5, [Box(350, 250, 9, 9)]) == (5, 215, 80, 80)
    assert free_corner(size, 80, 5, [Box(0, 150, 400, 20)]) is not None
    assert free_corner(size, 80, 5, [Box(20, 20, 360, 260)]) is None
    assert free_corner((70, 70), 80, 5, []) is None
