"""ChatGLM2-6B: pre-norm blocks with RMSNorm, grouped-query attention and SwiGLU."""

from paddle_glm.models.chatglm2.activations import BLOCK_ACTIVATIONS
from paddle_glm.models.chatglm2.parameters import parameters
from paddle_glm.models.chatglm2.positions import positions, rotary_dim
from paddle_glm.models.chatglm2.template import CHATGLM2
from paddle_glm.models.family import Family

FAMILY = Family(
    name="chatglm2",
    title="ChatGLM2-6B",
    float_parameters=parameters,
    positions=positions,
    rotary_dim=rotary_dim,
    block_activations=BLOCK_ACTIVATIONS,
    template=CHATGLM2,
    model="paddle_glm.models.chatglm2.modeling:ChatGLM2Model",
    tokenizer="paddle_glm.models.chatglm2.tokenizer:ChatGLM2Tokenizer",
    vocab_file="tokenizer.model",
    keys_to_ignore=(r"transformer\.rotary_pos_emb\.inv_freq",),
)
