"""Keras's Adam, an update in one pass over the weights: of a large vocabulary these are most of a step's memory."""

from typing import Any

import keras
import tensorflow as tf

from keras_lstmgen import workers


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Adam(keras.optimizers.Adam):
    """``keras.optimizers.Adam`` (Kingma and Ba, 2015), with TensorFlow's one operator for what are ten of Keras's.

    With ``weight_decay`` it is AdamW (Loshchilov and Hutter, 2019); biases are left alone.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what the parent takes, but ``amsgrad``, which the operator does not know: ValueError."""
        super().__init__(*arguments, **options)
        if self.amsgrad:
            raise ValueError("Adam: amsgrad=True is not supported; take keras.optimizers.Adam for it")
        self.exclude_from_weight_decay(var_names=["bias"])

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update all weights; an embedding's gradient, a list of rows, becomes a matrix once.

        Where several workers train, all make the update of their mean gradient.
        """
        super().apply(workers.mean([tf.convert_to_tensor(gradient) for gradient in grads]), trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one weight."""
        index = self._get_variable_index(variable)
        slots = (variable, self._momentums[index], self._velocities[index])
        w, m, v = ((slot.value if isinstance(slot, keras.Variable) else slot).handle for slot in slots)
        beta1, beta2 = (tf.constant(beta, tf.float32) for beta in (self.beta_1, self.beta_2))
        steps = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=w, m=m, v=v, beta1_power=beta1**steps, beta2_power=beta2**steps, lr=tf.cast(learning_rate, tf.float32),
            beta1=beta1, beta2=beta2, epsilon=self.epsilon, grad=gradient,
        )  # fmt: skip
