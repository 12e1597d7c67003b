"""Rules for every key of `generation_config.json` that transformers' `generate` reads."""

from typing import Any

from paddle_glm.key_rules import (
    BOOLEAN,
    NUMBER,
    POSITIVE_INT,
    POSITIVE_NUMBER,
    TOKEN_ID,
    Ignored,
    Mapped,
    Restricted,
    Rules,
    ValueType,
)

GENERATION_CONFIG_FILE = "generation_config.json"

_TOKEN_IDS = ValueType(
    "a token's id or a list of them",
    lambda value: bool(value) and isinstance(value, tuple) and all(map(TOKEN_ID.accepts, value)),
)
_PROBABILITY = ValueType(
    "a number above 0 and at most 1", lambda value: POSITIVE_NUMBER.accepts(value) and value <= 1
)
_NON_NEGATIVE_INT = ValueType("0 (off) or a positive integer", TOKEN_ID.accepts)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else (value,)


_NO_EFFECT_ON_OUTPUT = "affects how tokens are computed or returned, not which"
# transformers' key -> rule; fields are those of GenerationParams.
RULES: Rules = {
    "do_sample": Mapped("do_sample", BOOLEAN),
    "temperature": Mapped("temperature", POSITIVE_NUMBER),
    "top_k": Mapped("top_k", _NON_NEGATIVE_INT),
    "top_p": Mapped("top_p", _PROBABILITY),
    "repetition_penalty": Mapped("repetition_penalty", POSITIVE_NUMBER),
    "num_beams": Mapped("num_beams", POSITIVE_INT),
    "length_penalty": Mapped("length_penalty", NUMBER),
    "early_stopping": Mapped("early_stopping", BOOLEAN),
    "max_length": Mapped("max_length", POSITIVE_INT),
    "max_new_tokens": Mapped("max_new_tokens", POSITIVE_INT),
    "eos_token_id": Mapped("eos_token_ids", _TOKEN_IDS, _as_tuple),
    "pad_token_id": Mapped("pad_token_id", TOKEN_ID),
    "min_length": Restricted((0,)),
    "min_new_tokens": Restricted((0,)),
    "min_p": Restricted((0.0,)),
    "typical_p": Restricted((1.0,)),
    "epsilon_cutoff": Restricted((0.0,)),
    "eta_cutoff": Restricted((0.0,)),
    "penalty_alpha": Restricted((0.0,)),
    "guidance_scale": Restricted((1.0,)),
    "num_beam_groups": Restricted((1,)),
    "diversity_penalty": Restricted((0.0,)),
    "num_return_sequences": Restricted((1,)),
    "no_repeat_ngram_size": Restricted((0,)),
    "encoder_no_repeat_ngram_size": Restricted((0,)),
    "encoder_repetition_penalty": Restricted((1.0,)),
    "exponential_decay_length_penalty": Restricted((None,)),
    "bad_words_ids": Restricted(([],)),
    "force_words_ids": Restricted(([],)),
    "constraints": Restricted(([],)),
    "suppress_tokens": Restricted(([],)),
    "begin_suppress_tokens": Restricted(([],)),
    "forced_decoder_ids": Restricted(([],)),
    "forced_bos_token_id": Restricted((None,)),
    "forced_eos_token_id": Restricted((None,)),
    "sequence_bias": Restricted(({}, [])),
    "stop_strings": Restricted(([],)),
    "max_time": Restricted((None,)),
    "renormalize_logits": Restricted((False,)),
    "watermarking_config": Restricted((None,)),
    "token_healing": Restricted((False,)),
    "dola_layers": Restricted((None,)),
    "cache_implementation": Restricted(("dynamic", "static", "offloaded")),
    "remove_invalid_values": Ignored("non-finite logits are an error here"),
    "bos_token_id": Ignored("starts generation without a prompt, which is not supported"),
    "decoder_start_token_id": Ignored("only for encoder-decoder models"),
    "use_cache": Ignored(_NO_EFFECT_ON_OUTPUT),
    "low_memory": Ignored(_NO_EFFECT_ON_OUTPUT),
    "prompt_lookup_num_tokens": Ignored(_NO_EFFECT_ON_OUTPUT),
    "output_scores": Ignored(_NO_EFFECT_ON_OUTPUT),
    "output_logits": Ignored(_NO_EFFECT_ON_OUTPUT),
    "output_attentions": Ignored(_NO_EFFECT_ON_OUTPUT),
    "output_hidden_states": Ignored(_NO_EFFECT_ON_OUTPUT),
    "return_dict_in_generate": Ignored(_NO_EFFECT_ON_OUTPUT),
}
