"""The softmax of attention, float32, with its gradient."""

import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.kernels import training
from paddle_glm.layers.attention_mask import dim_size
from paddle_glm.precision import autocast_disabled


def attention_weights(
    scores: Tensor, mask: Tensor, heads_per_group: int, qk_layer_scaling: float = 1.0
) -> Tensor:
    """softmax(scores * qk_layer_scaling + mask), float32.

    scores: [batch, groups, heads_per_group * tokens, total], the shape of the result; mask: additive float32,
    [batch or 1, 1, tokens, total].
    """
    groups, tokens, total = scores.shape[1], dim_size(mask, 2), dim_size(mask, 3)
    if qk_layer_scaling == 1.0 and training.usable(scores):
        return training.masked_softmax(scores, mask)
    per_head = scores.reshape([0, groups, heads_per_group, tokens, total])
    with autocast_disabled():
        weights = F.softmax(per_head.astype("float32") * qk_layer_scaling + mask.unsqueeze(1), axis=-1)
    return weights.reshape([0, groups, -1, total])


def attention_weights_grad(weights: Tensor, grad: Tensor, qk_layer_scaling: float = 1.0) -> Tensor:
    """The gradient of the scores from that of `attention_weights`; float32, all of one shape."""
    if qk_layer_scaling == 1.0 and training.usable(weights):
        return training.softmax_grad(weights, grad)
    return weights * (grad - (weights * grad).sum(axis=-1, keepdim=True)) * qk_layer_scaling
