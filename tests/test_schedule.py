import keras
import numpy as np
import pytest

from rcan.training.schedule import learning_rate


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
