"""Places among scores, and outputs of labels, computed by hand."""

import numpy as np
import pytest

from keras_mnasnet.benchmarks.scoring import label_outputs, ranks


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32])
def test_of_equal_scores_the_lower_output_goes_first(dtype):
    scores = np.array([[0, 7, 3, 7], [5, 5, 5, 5], [0, 0, 9, 0]], dtype)
    assert ranks(scores, np.array([1, 1, 1])).tolist() == [0, 1, 2]
    assert ranks(scores, np.array([3, 3, 3])).tolist() == [1, 3, 3]


def test_places_are_those_of_a_stable_descending_sort():
    scores = np.random.default_rng(0).integers(0, 6, (50, 9)).astype(np.uint8)
    order = np.argsort(-scores.astype(np.int64), axis=1, kind="stable")
    for output in range(9):
        expected = np.argmax(order == output, axis=1)
        assert ranks(scores, np.full(50, output)).tolist() == expected.tolist()


def test_a_background_is_ranked_and_never_right():
    outputs = label_outputs("m", 4, ["a", "b", "c"])
    assert outputs.tolist() == [1, 2, 3]
    scores = np.array([[9, 8, 1, 0], [0, 1, 8, 9], [7, 7, 0, 0]])
    assert ranks(scores, outputs[np.array([0, 2, 0])]).tolist() == [1, 0, 1]


def test_scores_that_are_not_finite():
    with pytest.raises(ValueError, match="must be finite"):
        ranks(np.array([[np.nan, 1.0]]), np.array([0]))


def test_labels_go_by_name_where_the_model_knows_its_classes():
    known = ("cat", "dog", "cow")
    assert label_outputs("m", 3, ["cow", "cat"], known=known).tolist() == [2, 0]
    assert label_outputs("m", 3, ["a", "b", "c"], known=known, offset=0).tolist() == [0, 1, 2]
    assert label_outputs("m", 3, ["a", "b"], offset=0).tolist() == [0, 1]
    with pytest.raises(ValueError, match="classes must be the model's. Received: m of cat, dog, cow and data with horse"):
        label_outputs("m", 3, ["cat", "dog", "horse"], known=known)


@pytest.mark.parametrize("outputs", [999, 1002, 10])
def test_other_numbers_of_classes(outputs):
    with pytest.raises(ValueError, match=f"m with {outputs:,} outputs and data with 1,000 classes"):
        label_outputs("m", outputs, [str(label) for label in range(1000)])


@pytest.mark.parametrize(("outputs", "offset"), [(3, 1), (4, 2), (4, -1), (5, 1), (2, 0)])
def test_offsets_that_do_not_fit(outputs, offset):
    with pytest.raises(ValueError, match="`labels_offset` must be 0, or 1"):
        label_outputs("m", outputs, ["a", "b", "c"], offset=offset)
