"""Every key of `generation_config.json` that transformers' `generate` heeds, and what is made of it here."""

from typing import Any

from paddle_glm.file_keys import (
    ABOVE_ZERO,
    FLAG,
    NUMBER,
    POSITIVE,
    TOKEN,
    Honoured,
    Ignored,
    Kind,
    Only,
    Rules,
)

FILE = "generation_config.json"

_TOKENS = Kind(
    "a token's id or a list of them",
    lambda value: bool(value) and isinstance(value, tuple) and all(map(TOKEN.holds, value)),
)
_SHARE = Kind("a number above 0 and at most 1", lambda value: ABOVE_ZERO.holds(value) and value <= 1)
_COUNT = Kind("0 (off) or a positive integer", TOKEN.holds)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else (value,)


_SAME_ANSWER = "changes how an answer is computed or given, not the answer"
# Keys by what they are called there; fields are those of GenerationParams.
RULES: Rules = {
    "do_sample": Honoured("do_sample", FLAG),
    "temperature": Honoured("temperature", ABOVE_ZERO),
    "top_k": Honoured("top_k", _COUNT),
    "top_p": Honoured("top_p", _SHARE),
    "repetition_penalty": Honoured("repetition_penalty", ABOVE_ZERO),
    "num_beams": Honoured("num_beams", POSITIVE),
    "length_penalty": Honoured("length_penalty", NUMBER),
    "early_stopping": Honoured("early_stopping", FLAG),
    "max_length": Honoured("max_length", POSITIVE),
    "max_new_tokens": Honoured("max_new_tokens", POSITIVE),
    "eos_token_id": Honoured("eos_token_ids", _TOKENS, _tuple),
    "pad_token_id": Honoured("pad_token_id", TOKEN),
    "min_length": Only((0,)),
    "min_new_tokens": Only((0,)),
    "min_p": Only((0.0,)),
    "typical_p": Only((1.0,)),
    "epsilon_cutoff": Only((0.0,)),
    "eta_cutoff": Only((0.0,)),
    "penalty_alpha": Only((0.0,)),
    "guidance_scale": Only((1.0,)),
    "num_beam_groups": Only((1,)),
    "diversity_penalty": Only((0.0,)),
    "num_return_sequences": Only((1,)),
    "no_repeat_ngram_size": Only((0,)),
    "encoder_no_repeat_ngram_size": Only((0,)),
    "encoder_repetition_penalty": Only((1.0,)),
    "exponential_decay_length_penalty": Only((None,)),
    "bad_words_ids": Only(([],)),
    "force_words_ids": Only(([],)),
    "constraints": Only(([],)),
    "suppress_tokens": Only(([],)),
    "begin_suppress_tokens": Only(([],)),
    "forced_decoder_ids": Only(([],)),
    "forced_bos_token_id": Only((None,)),
    "forced_eos_token_id": Only((None,)),
    "sequence_bias": Only(({}, [])),
    "stop_strings": Only(([],)),
    "max_time": Only((None,)),
    "renormalize_logits": Only((False,)),
    "watermarking_config": Only((None,)),
    "token_healing": Only((False,)),
    "dola_layers": Only((None,)),
    "cache_implementation": Only(("dynamic", "static", "offloaded")),
    "remove_invalid_values": Ignored("logits that are not finite are an error here"),
    "bos_token_id": Ignored("begins answers to no prompt at all, which are not given"),
    "decoder_start_token_id": Ignored("belongs to models with an encoder"),
    "use_cache": Ignored(_SAME_ANSWER),
    "low_memory": Ignored(_SAME_ANSWER),
    "prompt_lookup_num_tokens": Ignored(_SAME_ANSWER),
    "output_scores": Ignored(_SAME_ANSWER),
    "output_logits": Ignored(_SAME_ANSWER),
    "output_attentions": Ignored(_SAME_ANSWER),
    "output_hidden_states": Ignored(_SAME_ANSWER),
    "return_dict_in_generate": Ignored(_SAME_ANSWER),
}
