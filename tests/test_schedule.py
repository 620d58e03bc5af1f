import keras
import numpy as np
import pytest

from rcan.config import Config
from rcan.run_folder.state import RunState
from rcan.training.schedule import StepSchedule, learning_rate


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 7, 8, 300])
def test_learning_rate_is_halved_every_quarter_of_the_epochs(epochs):
    quarter = max(epochs // 4, 1)
    rates, expected = [], 1e-4
    for epoch in range(epochs):
        if epoch > 0 and epoch % quarter == 0:
            expected /= 2
        rates.append(learning_rate(epoch, initial=1e-4, epochs=epochs) / expected)
    np.testing.assert_allclose(rates, 1)


@pytest.mark.parametrize("warmup", [0, 3])
def test_cosine_is_that_of_keras_after_the_warm_up(warmup):
    expected = keras.optimizers.schedules.CosineDecay(0.002, decay_steps=20 - warmup)
    options = {"initial": 0.002, "epochs": 20, "schedule": "cosine", "warmup_epochs": warmup}
    rates = [learning_rate(epoch, **options) for epoch in range(warmup, 20)]
    np.testing.assert_allclose(rates, [float(expected(step)) for step in range(20 - warmup)], rtol=1e-5)


@pytest.mark.parametrize("schedule", ["staircase", "cosine"])
def test_warm_up_rises_in_equal_steps_to_the_initial_rate(schedule):
    options = {"initial": 1.0, "epochs": 40, "schedule": schedule, "warmup_epochs": 4}
    np.testing.assert_allclose([learning_rate(epoch, **options) for epoch in range(5)], [0.2, 0.4, 0.6, 0.8, 1])


def test_a_warm_up_ends_before_the_last_epoch():
    rates = [learning_rate(epoch, initial=1.0, epochs=3, warmup_epochs=9) for epoch in range(3)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 0.25])


def schedule(*, num_replicas=1, **values):
    """The schedule of 4 epochs of 3 steps with 8 patches, on so many devices."""
    pairs = [{"raw": "a", "gt": "b"}]
    plan = {"epochs": 4, "steps_per_epoch": 3, "batch_size": 8, **values}
    return StepSchedule.of(Config.checked({"training_image_pairs": pairs, **plan}), num_replicas)


def test_late_patches_are_a_quarter_as_many_in_the_last_epochs():
    small, large = schedule(late_patches=0.25).patches_left(RunState(epochs=4))
    np.testing.assert_array_equal(small, np.arange(72))
    np.testing.assert_array_equal(large, [72, 73, 74, 75, 76, 77])  # 3 steps of 2


def test_without_late_patches_there_are_none():
    small, large = schedule(late_patches=0).patches_left(RunState(epochs=4))
    assert len(small) == 96
    assert len(large) == 0


@pytest.mark.parametrize(
    ("epoch", "patches_done", "expected"),
    [(2, 16, ([64, 65, 66, 67, 68, 69, 70, 71], [72, 73, 74, 75, 76, 77])), (3, 8, ([], [74, 75, 76, 77]))],
)
def test_a_run_goes_on_with_the_patches_that_are_left(epoch, patches_done, expected):
    state = RunState(epochs=4, epoch=epoch, patches_done=patches_done)
    left = schedule(late_patches=0.25).patches_left(state)
    for found, indices in zip(left, expected, strict=True):
        np.testing.assert_array_equal(found, indices)


def test_late_patches_do_not_depend_on_the_number_of_devices():
    state = RunState(epochs=4)
    alone = schedule(late_patches=0.5, steps_per_epoch=4).patches_left(state)
    shared = schedule(late_patches=0.5, steps_per_epoch=4, num_replicas=2).patches_left(state)
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one, other)
