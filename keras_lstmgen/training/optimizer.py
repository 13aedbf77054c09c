"""Adam optimizer that updates each weight in one pass over memory, which is faster for large vocabularies."""

from typing import Any

import keras
import tensorflow as tf

from keras_lstmgen.distribution import workers


@keras.saving.register_keras_serializable(package="keras_lstmgen")
class Adam(keras.optimizers.Adam):
    """A ``keras.optimizers.Adam`` that updates each weight with one fused TensorFlow operator instead of about ten.

    With ``weight_decay``, the optimizer is AdamW. Weight decay does not apply to biases.

    Sources: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015; Loshchilov and Hutter, "Decoupled Weight
    Decay Regularization", 2019.

    Args:
        *arguments: positional arguments of ``keras.optimizers.Adam``.
        **options: keyword arguments of ``keras.optimizers.Adam``.

    Raises:
        ValueError: if ``amsgrad`` is True, which the fused operator does not support.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Create the optimizer."""
        super().__init__(*arguments, **options)
        if self.amsgrad:
            raise ValueError("Adam: amsgrad=True is not supported; use keras.optimizers.Adam instead")
        self.exclude_from_weight_decay(var_names=["bias"])

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Average the gradients over all workers, and update all weights.

        The sparse gradients of embeddings are first converted to dense tensors.

        Args:
            grads: one gradient per weight.
            trainable_variables: the weights, see ``keras.optimizers.Optimizer.apply``.
        """
        super().apply(
            workers.all_reduce_mean([tf.convert_to_tensor(gradient) for gradient in grads]), trainable_variables
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one weight and its two moments."""
        index = self._get_variable_index(variable)
        slots = (variable, self._momentums[index], self._velocities[index])
        w, m, v = ((slot.value if isinstance(slot, keras.Variable) else slot).handle for slot in slots)
        beta1, beta2 = (tf.constant(beta, tf.float32) for beta in (self.beta_1, self.beta_2))
        steps = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=w, m=m, v=v, beta1_power=beta1**steps, beta2_power=beta2**steps, lr=tf.cast(learning_rate, tf.float32),
            beta1=beta1, beta2=beta2, epsilon=self.epsilon, grad=gradient,
        )  # fmt: skip
