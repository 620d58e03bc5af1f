"""One step of a training: gradient, optimizer and moving average, on the devices of a strategy."""

import itertools

from rcan.config import parse_loss
from rcan.keras_setup import keras, ops, tf
from rcan.losses import METRICS, light_weights, weighted_loss
from rcan.precision import with_precision
from rcan.training.gradient import has_fast_stock_gradient, use_fast_gradient
from rcan.training.own_functions import per_image


class Learner:
    """A network, and all that changes its weights.

    `build` builds the network: once for the one that is saved, `network`, which is float32 and on one device, and
    once, to be computed in the precision of the configuration, for the one that is trained. `weights` are those to
    begin with. A `loss` takes the place of that of the configuration.
    """

    def __init__(self, build, config, strategy, *, weights=None, loss=None):
        self.strategy, self._ema = strategy, config.ema
        keras.utils.set_random_seed(config.seed)
        self.network = build()
        if weights:
            self.network.set_weights(weights)
        self._loss = per_image(loss) if loss else weighted_loss(parse_loss(config.loss))
        self._has_light_weights = config.photon_range is not None and config.normalization == "anscombe"
        self._measures = {name: METRICS[name] for name in config.metrics}
        with strategy.scope():
            self._model = with_precision(build(), config.precision)
            self._model.set_weights(self.network.get_weights())
            if not (tf.config.list_logical_devices("GPU") or has_fast_stock_gradient()):
                use_fast_gradient(self._model)
            self._optimizer = keras.optimizers.Adam(
                config.initial_learning_rate, global_clipnorm=config.clipnorm or None
            )
            if config.precision == "mixed_float16":
                self._optimizer = keras.optimizers.LossScaleOptimizer(self._optimizer)
            self._optimizer.build(self._model.trainable_variables)
            averaged = self._model.trainable_variables if config.ema else []
            self._averages = [tf.Variable(variable, trainable=False) for variable in averaged]
        self._train_step = tf.function(self._on_all_devices(self._train), jit_compile=config.jit_compile)
        self._test_step = tf.function(self._on_all_devices(self._test))

    def set_learning_rate(self, rate):
        """Set the learning rate of the next steps."""
        self._optimizer.learning_rate = rate

    def train(self, raw, gt):
        """Do one step with a batch for each device; return the mean loss and the mean measures before it."""
        figures = {name: float(value) for name, value in self._train_step(raw, gt).items()}
        if self._averages:
            steps = int(ops.convert_to_numpy(self._optimizer.iterations))
            decay = min(self._ema, (1 + steps) / (10 + steps))
            self._update_averages(tf.constant(decay, tf.float32))
        return figures

    def evaluate(self, batches, num_steps):
        """Mean loss and mean measures over the first steps of the batches."""
        trained = self._model.get_weights()
        if self._averages:
            self._model.set_weights(self.weights_for_evaluation())
        sums = {}
        for raw, gt in itertools.islice(batches, num_steps):
            for name, value in self._test_step(raw, gt).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        if self._averages:
            self._model.set_weights(trained)
        return {name: value / num_steps for name, value in sums.items()}

    def weights_for_evaluation(self):
        """Weights that are validated and saved: their moving average, where there is one."""
        weights = self._model.get_weights()
        averages = iter([average.numpy() for average in self._averages])
        is_trained = [variable.trainable for variable in self._model.weights]
        return [next(averages, old) if trained else old for old, trained in zip(weights, is_trained, strict=True)]

    def update_network(self):
        """Give the network that is saved the present weights."""
        self.network.set_weights(self.weights_for_evaluation())

    def variables(self):
        """Arrays of all that a training needs to go on: weights, optimizer, moving average."""
        return [ops.convert_to_numpy(variable) for variable in self._variables]

    def restore(self, arrays):
        """Go on from the arrays of `variables`."""
        for variable, array in zip(self._variables, arrays, strict=True):
            variable.assign(array)
        self.update_network()

    @property
    def _variables(self):
        return [*self._model.weights, *self._optimizer.variables, *self._averages]

    def _on_all_devices(self, step):
        """Let each device do a step with its own batch; the results are averaged."""

        def distributed(raw, gt):
            """Do the step on each device, and average what it returns."""
            results = self.strategy.run(step, args=(raw, gt))
            mean = tf.distribute.ReduceOp.MEAN
            return {name: self.strategy.reduce(mean, value, axis=None) for name, value in results.items()}

        return distributed

    def _train(self, raw, gt):
        restored = self._model(raw, training=True)
        gt, present = _fill(gt, restored)
        loss = self._mean_loss(raw, gt, restored) / present
        # TensorFlow's sum of three or more gradients of one tensor (each skip connection makes some) begins with
        # whichever is in memory that can be reused: the last bits would depend on the timing of threads. Summed in
        # pairs they do not.
        gradients = tf.gradients(
            self._optimizer.scale_loss(loss) / self.strategy.num_replicas_in_sync,
            [variable.value for variable in self._model.trainable_variables],
            aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE,
        )
        self._optimizer.apply(gradients, self._model.trainable_variables)
        return {"loss": loss, **self._measure(gt, restored)}

    def _test(self, raw, gt):
        restored = self._model(raw, training=False)
        gt, present = _fill(gt, restored)
        return {"loss": self._mean_loss(raw, gt, restored) / present, **self._measure(gt, restored)}

    def _mean_loss(self, raw, gt, restored):
        losses = self._loss(gt, restored)
        return tf.reduce_mean(losses * light_weights(raw) if self._has_light_weights else losses)

    def _measure(self, gt, restored):
        return {name: tf.reduce_mean(measure(gt, restored)) for name, measure in self._measures.items()}

    @tf.function
    def _update_averages(self, decay):
        for average, variable in zip(self._averages, self._model.trainable_variables, strict=True):
            self.strategy.extended.update(
                average, lambda old, new: old.assign_add((1 - decay) * (new - old)), args=(variable.value,)
            )


def _fill(gt, restored):
    """Put what was restored where gt is missing (NaN), so that nothing is learned there; the share that is present."""
    missing = tf.math.is_nan(gt)
    present = tf.maximum(1 - tf.reduce_mean(tf.cast(missing, tf.float32)), 1e-6)
    return tf.where(missing, tf.stop_gradient(tf.cast(restored, gt.dtype)), gt), present
