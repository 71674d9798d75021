"""haste: an output layer for hundreds of thousands of labels and more, on numpy arrays; haste.torch has it for PyTorch, on a GPU too.

    layer = haste.Layer(labels=670091, inputs=768, optimizer="adamw", frequency=frequency, samples=N)
    loss = layer.train_step(x, positives, lr=.007, grad_x=grad_x)
    id, score = layer.top_k(x, 5)
    layer.save("model.haste")

README.md beside this package tells the rest, haste.h what each function does."""
from .arrays import aligned
from .functions import (Metrics, above_merge, cohesion, embed_dense, embed_finish, embed_sparse, group, has_bf16_dot,
                        inverse_propensity, order_by_frequency, order_random, rewire_share, schedule, softmax_merge,
                        top_k_merge)
from .layer import (DENSE, RETIRED, InputScores, Layer, layer_attach, layer_from_rows, layer_join, plan_bytes)
from .library import Error

load, load_memory = Layer.load, Layer.load_memory
