"""The layer's loss for JAX, on the CPU.

    layer = haste.Layer(labels=670091, inputs=768, optimizer="adamw")
    options = {"lr": .007}                                # read at each call, so it may change
    loss = haste.jax.loss_of(layer, options)
    step = jax.jit(jax.value_and_grad(lambda weights, words, offset, ids: loss(encoder(weights, words), offset, ids)))

The loss alone looks. Differentiated it trains, once a call, before its gradient for x is known outside: so let nothing scale it on its
way (scale is an option), and differentiate no more often than the layer is to be trained."""
import functools

import jax
import numpy
from jax.experimental import io_callback


def loss_of(layer, options):
    """loss(x, offset, ids): x float32 [B, inputs], offset and ids integers, CSR."""

    def run(x, offset, ids, train):
        x, grad_x = numpy.array(x, order="C"), numpy.zeros(x.shape, numpy.float32)
        call = layer.train_step if train else layer.evaluate
        return numpy.float32(call(x, numpy.asarray(offset), numpy.asarray(ids), grad_x=grad_x, **options)), grad_x

    def call(train, x, *lists):
        shapes = jax.ShapeDtypeStruct((), numpy.float32), jax.ShapeDtypeStruct(x.shape, numpy.float32)
        return io_callback(functools.partial(run, train=train), shapes, x, *lists, ordered=True)

    @jax.custom_vjp
    def loss(x, offset, ids):
        return call(False, x, offset, ids)[0]

    loss.defvjp(lambda x, offset, ids: call(True, x, offset, ids), lambda grad_x, grad: (grad * grad_x, None, None))
    return loss
