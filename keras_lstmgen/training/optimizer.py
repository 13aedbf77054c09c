"""Adam that updates each weight in one pass over memory, which matters for large vocabularies."""

from typing import Any

import keras
import tensorflow as tf

from keras_lstmgen.distribution import workers


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Adam(keras.optimizers.Adam):
    """``keras.optimizers.Adam`` with one fused TensorFlow operator in place of ten Keras operators.

    With ``weight_decay``, the optimizer is AdamW; biases are excluded from weight decay.

    Sources: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015; Loshchilov and Hutter, "Decoupled Weight
    Decay Regularization", 2019.

    Args:
        *arguments: passed to ``keras.optimizers.Adam``.
        **options: passed to ``keras.optimizers.Adam``.

    Raises:
        ValueError: if ``amsgrad=True``, which the fused operator does not support.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Create the optimizer."""
        super().__init__(*arguments, **options)
        if self.amsgrad:
            raise ValueError("Adam: amsgrad=True is not supported; take keras.optimizers.Adam for it")
        self.exclude_from_weight_decay(var_names=["bias"])

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Update all weights with the gradients, averaged over all workers.

        Sparse gradients of embeddings are converted to dense tensors first.
        """
        super().apply(
            workers.all_reduce_mean([tf.convert_to_tensor(gradient) for gradient in grads]), trainable_variables
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one weight and its moments."""
        index = self._get_variable_index(variable)
        slots = (variable, self._momentums[index], self._velocities[index])
        w, m, v = ((slot.value if isinstance(slot, keras.Variable) else slot).handle for slot in slots)
        beta1, beta2 = (tf.constant(beta, tf.float32) for beta in (self.beta_1, self.beta_2))
        steps = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=w, m=m, v=v, beta1_power=beta1**steps, beta2_power=beta2**steps, lr=tf.cast(learning_rate, tf.float32),
            beta1=beta1, beta2=beta2, epsilon=self.epsilon, grad=gradient,
        )  # fmt: skip
