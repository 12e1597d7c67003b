"""How PaddleNLP stores ChatGLM-6B (paddlenlp/transformers/chatglm)."""

from paddle_glm.paddlenlp_format import PaddleNLPFormat

FORMAT = PaddleNLPFormat(
    model_type="chatglm",
    model_class="ChatGLMForCausalLM",
    tokenizer_class="ChatGLMTokenizer",
    own_keys=frozenset({"inner_hidden_size", "position_encoding_2d"}),
    prefix="chatglm.",
    hub_prefix="",
    unprefixed_starts=("transformer.",),
    renamed={"lm_head.decoder_weight": "lm_head.weight"},
    not_transposed=frozenset({"transformer.word_embeddings.weight", "lm_head.weight"}),
)
