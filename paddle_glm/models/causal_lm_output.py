"""What a forward pass of `CausalLM` returns."""

from dataclasses import dataclass, replace

from paddle import Tensor

from paddle_glm.kv_cache import KVCache


@dataclass
class CausalLMOutput:
    """Output of `CausalLM.forward`.

    logits: float32 [batch, tokens, vocab]; None where they were not asked for, and in training with labels
        and tensor parallelism, where each rank keeps its shard of the vocabulary.
    loss: float32 scalar, the mean over labels other than -100.
    past_key_values: a cache whose item of a layer is its (key, value), each [batch, local key/value heads,
        length, head_dim].
    hidden_states: the embeddings, then every block's output: [batch, tokens, hidden].
    """

    logits: Tensor | None
    loss: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    def without_last(self, tokens: int) -> "CausalLMOutput":
        """Without the last so many tokens, which were padding."""
        hidden = None if self.hidden_states is None else tuple(one[:, :-tokens] for one in self.hidden_states)
        logits = None if self.logits is None else self.logits[:, :-tokens]
        return replace(self, logits=logits, hidden_states=hidden)
