"""Arguments of `finetune` that say which model to start from, and which part of it is trained."""

from dataclasses import dataclass

from paddle_glm.errors import InputError
from paddle_glm.hub import DOWNLOAD_HELP, REVISION_HELP
from paddle_glm.peft.lora_config import ADAPTER_CONFIG_FILE
from paddle_glm.peft.lora_keys import DEFAULT_TARGET_MODULES
from paddle_glm.quantization import BITS
from paddle_glm.training.flag_fields import ADAPTERS, MODEL, flag, required_flag


@dataclass
class ModelArguments:
    """Which model to start from, and what of it is trained."""

    model_name_or_path: str = required_flag(
        MODEL,
        "model folder (hub layout, PaddleNLP's, or tensor-parallel shards), or a hub's name with --download",
        metavar="MODEL",
    )
    family: str | None = flag(
        MODEL, None, "chatglm, chatglm2 or chatglm3 (default: from config.json)", metavar="FAMILY"
    )
    download: str | bool | None = flag(MODEL, None, DOWNLOAD_HELP, nargs="?", const=True, metavar="HUB")
    revision: str | None = flag(
        MODEL, None, f"{REVISION_HELP} (default: its main branch)", metavar="REVISION"
    )
    quantization_bit: int | None = flag(
        MODEL,
        None,
        "quantise the frozen linear weights to 4 or 8 bits while loading (default: as the folder has them)",
    )
    quantization_group_size: int | None = flag(
        MODEL,
        None,
        "input channels that share a scale; 0: one scale per output channel (default: 128 for 4 bits, "
        "0 for 8 bits)",
    )
    pre_seq_len: int | None = flag(
        ADAPTERS, None, "P-Tuning v2: train a prefix of N tokens, freeze the model (default: no prefix)"
    )
    prefix_projection: bool = flag(
        ADAPTERS, False, "P-Tuning v2: compute the prefix by a two-layer MLP instead of an embedding alone"
    )
    ptuning_checkpoint: str | None = flag(
        ADAPTERS,
        None,
        "P-Tuning v2: folder of a trained prefix to start from, ours or THUDM's (default: a new prefix)",
        metavar="FOLDER",
    )
    prefix_tuning: bool = flag(
        ADAPTERS, False, "PaddleNLP's flag for P-Tuning v2, with the length of --num_prefix_tokens"
    )
    num_prefix_tokens: int = flag(ADAPTERS, 128, "prefix length with --prefix_tuning, in tokens")
    lora: bool = flag(ADAPTERS, False, "train LoRA adapters, freeze the model")
    lora_rank: int = flag(ADAPTERS, 8, "rank of the LoRA matrices")
    lora_alpha: float = flag(
        ADAPTERS, 16.0, "LoRA scaling numerator: the adapter's output is multiplied by alpha / rank"
    )
    lora_dropout: float = flag(ADAPTERS, 0.0, "dropout probability of the adapter's input in training")
    lora_target_modules: list[str] | None = flag(
        ADAPTERS,
        None,
        "linear layers that get an adapter, by the last part of their names (default: "
        f"{' '.join(DEFAULT_TARGET_MODULES)})",
        metavar="NAME",
    )
    lora_path: str | None = flag(
        ADAPTERS,
        None,
        "folder of trained LoRA adapters to start from, ours or PEFT's (default: new adapters)",
        metavar="FOLDER",
    )

    @property
    def trains_adapter(self) -> bool:
        """Whether a prefix or LoRA is trained and the model is frozen."""
        return bool(self.lora or self.lora_path or self.prefix_length or self.ptuning_checkpoint)

    @property
    def prefix_length(self) -> int | None:
        """Prefix length in tokens, by either flag; None without one."""
        return self.num_prefix_tokens if self.prefix_tuning else self.pre_seq_len

    @property
    def adapter_config_file(self) -> str | None:
        """File name of the trained adapter's configuration; None where the whole model is trained."""
        if self.prefix_length or self.ptuning_checkpoint:
            from paddle_glm.peft.prefix import PREFIX_CONFIG_FILE

            return PREFIX_CONFIG_FILE
        return ADAPTER_CONFIG_FILE if self.trains_adapter else None

    @property
    def source_folders(self) -> dict[str, str | None]:
        """{flag: folder} of what training starts from."""
        return {
            name: getattr(self, name) for name in ("model_name_or_path", "ptuning_checkpoint", "lora_path")
        }

    def check(self) -> None:
        """Raise `InputError` for methods that exclude each other and for values out of range."""
        if (self.lora or self.lora_path) and (self.prefix_length or self.ptuning_checkpoint):
            raise InputError("a prefix and LoRA exclude each other: give the flags of one of them")
        if self.prefix_tuning and self.pre_seq_len not in (None, self.num_prefix_tokens):
            raise InputError(
                f"--pre_seq_len {self.pre_seq_len} and --num_prefix_tokens {self.num_prefix_tokens} both "
                "give the prefix length: leave one of them out"
            )
        if self.prefix_length is not None and self.prefix_length < 1:
            raise InputError(f"--pre_seq_len {self.prefix_length}: expected at least 1")
        if self.ptuning_checkpoint is not None:
            from paddle_glm.peft.prefix import check_prefix_folder

            check_prefix_folder(self.ptuning_checkpoint, self.prefix_length, self.prefix_projection)
        if self.quantization_bit not in (None, *BITS):
            raise InputError(f"--quantization_bit {self.quantization_bit}: expected 4 or 8")
