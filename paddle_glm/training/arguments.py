"""Arguments of `finetune`, by PaddleNLP's names: what they are, their defaults and their checks."""

# ruff: noqa: UP045 (PaddleNLP's parser reads `Optional[X]`, not `X | None`)

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import paddle
from paddlenlp.trainer import TrainingArguments
from paddlenlp.trainer.trainer_utils import IntervalStrategy
from paddlenlp.utils.log import logger

from paddle_glm.checkpoint.save import FORMATS, SAVE_FORMAT_HELP
from paddle_glm.errors import InputError
from paddle_glm.hardware import DEVICE_HELP, use_device
from paddle_glm.hub import DOWNLOAD_HELP, REVISION_HELP
from paddle_glm.parallel import Mesh, check_degree, init_parallel, world_size
from paddle_glm.peft import lora_config, prefix
from paddle_glm.quantization import BITS
from paddle_glm.training.flag_requirements import check_supported

# PaddleNLP's names; its stage3 and offload are not there.
_SHARDING_STAGES = {"": 0, "stage1": 1, "stage2": 2}
LENGTH_FLAGS = ("src_length", "tgt_length")
_OPTIONAL_COUNT_FLAGS = (
    *("max_train_samples", "max_eval_samples", "max_predict_samples"),
    *("val_max_target_length", "num_beams"),
)
BATCH_SIZE_FLAGS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)


def _argument(default: Any, text: str) -> Any:
    """A field whose help text is `text`."""
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which model to start from."""

    model_name_or_path: str = field(metadata={"help": "folder: hub layout, merged, or shards"})
    family: Optional[str] = _argument(None, "what the model is, where its files do not say")
    download: Optional[str] = field(
        default=None, metadata={"help": DOWNLOAD_HELP, "nargs": "?", "const": True}
    )
    revision: Optional[str] = _argument(None, REVISION_HELP)
    pre_seq_len: Optional[int] = _argument(
        None, "P-Tuning v2: train a prefix of so many tokens, nothing else"
    )
    prefix_projection: bool = _argument(False, "P-Tuning v2: make the prefix by a network of two layers")
    ptuning_checkpoint: Optional[str] = _argument(None, "folder of a prefix to go on from, ours or THUDM's")
    prefix_tuning: bool = _argument(False, "PaddleNLP's way to ask for P-Tuning v2")
    num_prefix_tokens: int = _argument(128, "PaddleNLP's pre_seq_len, with prefix_tuning")
    lora: bool = _argument(False, "train LoRA adapters, nothing else")
    lora_rank: int = _argument(8, "inner size of an adapter")
    lora_alpha: float = _argument(16.0, "an adapter counts alpha / rank times")
    lora_dropout: float = _argument(0.0, "of an adapter's input, in training")
    lora_target_modules: Optional[list[str]] = field(
        default=None,
        metadata={"help": "linear layers that get one, by the ends of their names; default: all of a block"},
    )
    lora_path: Optional[str] = _argument(None, "folder of adapters to go on from, ours or PEFT's")
    quantization_bit: Optional[int] = _argument(None, "keep linear layers' frozen weights in 4 or 8 bits")
    quantization_group_size: Optional[int] = _argument(
        None, "inputs that share a scale; 0: one scale per output; default: 128 for 4 bits, 0 for 8"
    )

    @property
    def trains_adapter(self) -> bool:
        """Whether a prefix or LoRA is trained, and the model itself is not."""
        return bool(self.lora or self.lora_path or self.prefix_length or self.ptuning_checkpoint)

    @property
    def prefix_length(self) -> Optional[int]:
        """Tokens of the prefix that is asked for, by either name; None where none is."""
        return self.num_prefix_tokens if self.prefix_tuning else self.pre_seq_len

    @property
    def adapter_config_file(self) -> Optional[str]:
        """The configuration file of what is trained beside the model; None where all of it is trained."""
        if self.prefix_length or self.ptuning_checkpoint:
            return prefix.PREFIX_CONFIG_FILE
        return lora_config.ADAPTER_CONFIG_FILE if self.trains_adapter else None

    @property
    def source_folders(self) -> dict[str, Optional[str]]:
        """The folders that training starts from, by their flags."""
        return {
            name: getattr(self, name) for name in ("model_name_or_path", "ptuning_checkpoint", "lora_path")
        }

    def check(self) -> None:
        """Raise `InputError` for methods that exclude each other, and for sizes that make no sense."""
        if (self.lora or self.lora_path) and (self.prefix_length or self.ptuning_checkpoint):
            raise InputError("a prefix and LoRA exclude each other: give the flags of one of them")
        if self.prefix_tuning and self.pre_seq_len not in (None, self.num_prefix_tokens):
            raise InputError(
                f"--pre_seq_len {self.pre_seq_len} and --num_prefix_tokens {self.num_prefix_tokens} both say "
                "how long the prefix is: give one of them"
            )
        if self.prefix_length is not None and self.prefix_length < 1:
            raise InputError(f"--pre_seq_len {self.prefix_length}: expected at least 1")
        if self.ptuning_checkpoint is not None:
            prefix.check_prefix_folder(self.ptuning_checkpoint, self.prefix_length, self.prefix_projection)
        if self.quantization_bit not in (None, *BITS):
            raise InputError(f"--quantization_bit {self.quantization_bit}: expected 4 or 8")


@dataclass
class DataArguments:
    """Which rows to train on, and how they become ids."""

    task_name_or_path: Optional[str] = _argument(None, "folder with train and dev files, or one data file")
    train_file: Optional[str] = _argument(
        None, "rows to train on (JSON, CSV, TSV, parquet); wins over the folder's"
    )
    validation_file: Optional[str] = _argument(None, "rows to evaluate on")
    test_file: Optional[str] = _argument(
        None, "rows to measure (do_eval) or to answer (do_predict) at the end"
    )
    max_train_samples: Optional[int] = _argument(None, "train on the first rows only, so many")
    max_eval_samples: Optional[int] = _argument(None, "evaluate on the first rows only, so many")
    max_predict_samples: Optional[int] = _argument(None, "answer the first rows only, so many")
    prompt_column: Optional[str] = _argument(None, "key of the question in a row; guessed from known names")
    response_column: Optional[str] = _argument(None, "key of the answer in a row; guessed from known names")
    history_column: Optional[str] = _argument(None, "key of the earlier [question, answer] pairs in a row")
    src_length: int = _argument(
        128, "longest prompt in tokens; longer ones are cut as the originals cut them"
    )
    tgt_length: int = _argument(128, "longest answer in tokens, in training and in generation")
    val_max_target_length: Optional[int] = _argument(
        None,
        "tgt_length of rows that are evaluated or answered, and of generated answers; default: tgt_length",
    )
    source_prefix: Optional[str] = _argument(None, "text in front of every prompt")
    zero_padding: bool = _argument(False, "pack several rows into one sequence, for less padding")
    do_generation: bool = _argument(False, "evaluate by generating answers too: ROUGE-1/2/L and BLEU-4")
    num_beams: Optional[int] = _argument(None, "beams of generated answers; above 1 is beam search")

    @property
    def eval_tgt_length(self) -> int:
        """`tgt_length` of rows that are not trained on."""
        return self.tgt_length if self.val_max_target_length is None else self.val_max_target_length

    def check(self) -> None:
        """Raise `InputError` for sizes that make no sense."""
        check_positive(self, LENGTH_FLAGS)
        check_positive(self, [name for name in _OPTIONAL_COUNT_FLAGS if getattr(self, name) is not None])


@dataclass
class FinetuneArguments(TrainingArguments):
    """PaddleNLP's training arguments, with defaults and checks that fit finetuning ChatGLM.

    Making an instance joins the launcher's processes (`mesh`) and chooses the device.
    """

    output_dir: str = field(metadata={"help": "where checkpoints, logs and the final model go"})
    overwrite_output_dir: bool = _argument(
        False, "start anew: checkpoints of an earlier run go when this one has written its first"
    )
    do_predict: bool = _argument(False, "answer the test rows at the end, with what has been trained")
    evaluation_strategy: Optional[str] = _argument(
        None, "with do_eval: steps (default), epoch, or no: at the end alone"
    )
    device: Optional[str] = _argument(None, DEVICE_HELP)
    tensor_parallel_degree: int = _argument(1, "processes that share one model")
    sharding: str = _argument(
        "",
        "stage1: every data-parallel process holds the optimizer's state of its share of the parameters; "
        "stage2: their gradients too",
    )
    sharding_parallel_degree: int = _argument(-1, "with sharding: the data-parallel processes, all of them")
    save_format: str = _argument(
        FORMATS[0], f"files of the trained model (checkpoints stay as they are): {SAVE_FORMAT_HELP}"
    )
    group_by_length: bool = _argument(False, "put rows of similar length into one batch")
    report_to: str = _argument("visualdl", "visualdl (a log in logging_dir) or none")
    logging_dir: Optional[str] = _argument(None, "folder of the VisualDL log; default output_dir/runs")
    resume_from_checkpoint: Optional[str] = _argument(
        None,
        "folder of a checkpoint, or True: the newest complete one (taken by default)",
    )

    def __post_init__(self) -> None:
        logger.set_level("INFO")  # its default prints every argument and property at the start
        self._check()
        self.device = _choose_device(self.device)
        self._choose_precision()
        self.mesh: Mesh = init_parallel(self.tensor_parallel_degree)
        if self.logging_dir is None:
            self.logging_dir = str(Path(self.output_dir).expanduser() / "runs")
        # PaddleNLP's own VisualDL callback logs booleans as hyperparameters, which VisualDL refuses.
        self.visualdl, self.report_to = self.report_to == "visualdl", "none"
        at_end = self.do_eval and self.evaluation_strategy == "no"
        if at_end:
            self.evaluation_strategy = "epoch"  # PaddleNLP reads "no" as "steps" here
        elif self.evaluation_strategy is None:
            self.evaluation_strategy = "steps" if self.do_eval else "no"
        lower = (self.metric_for_best_model or "").endswith("perplexity")
        if lower and self.greater_is_better is None:  # type: ignore[has-type]
            self.greater_is_better = False  # PaddleNLP thinks of the loss alone
        # PaddleNLP would start fleet for a degree above 1, whose groups, wrappers and clipping do not
        # fit gloo and shared rows: it sees data parallelism, and the trainer does the rest by `mesh`.
        self.sharding_stage = self._resolve_sharding_stage()
        self.sharding, self.sharding_parallel_degree = "", -1
        degree, self.tensor_parallel_degree = self.tensor_parallel_degree, -1
        try:
            super().__post_init__()
        except ValueError as error:
            raise InputError(str(error)) from error
        self.tensor_parallel_degree = degree
        if at_end:
            self.evaluation_strategy = IntervalStrategy.NO

    def _check(self) -> None:
        check_supported(self)
        if self.tensor_parallel_degree == -1:  # PaddleNLP's way to say "none"
            self.tensor_parallel_degree = 1
        check_degree(self.tensor_parallel_degree, world_size())
        if self.save_format not in FORMATS:
            raise InputError(f"--save_format {self.save_format}: expected one of {', '.join(FORMATS)}")
        if self.report_to not in ("visualdl", "none"):
            raise InputError(f"--report_to {self.report_to}: expected visualdl or none")
        check_positive(self, BATCH_SIZE_FLAGS)

    def _resolve_sharding_stage(self) -> int:
        """0, 1 or 2: what data-parallel processes share out (`training.sharded_optimizer`)."""
        stage = parse_sharding_stage(self.sharding, self.sharding_parallel_degree, self.mesh.data.degree)
        if stage and self.mesh.data.degree == 1:
            if _is_rank_zero():
                logger.warning(f"--sharding {self.sharding}: one data-parallel process shares nothing out")
            return 0
        return stage

    def _choose_precision(self) -> None:
        """On CPU half precision has no kernels: float32 is used, and said once."""
        half = [name for name in ("fp16", "bf16") if getattr(self, name)]
        if len(half) > 1:
            raise InputError("--fp16 and --bf16 exclude each other: give one")
        if self.device == "cpu" and half:
            if _is_rank_zero():
                logger.warning(f"--{half[0]}: Paddle has no CPU kernels for it, training in float32")
            self.fp16 = self.bf16 = False

    @property
    def dtype(self) -> str:
        """The dtype that weights are held in: half precision with float32 master weights at O2.

        Where nothing is trained and no precision is asked for, "auto": what fits folder and device.
        """
        return parameter_dtype(self) if self.do_train or self.fp16 or self.bf16 else "auto"

    @property
    def dataset_rank(self) -> int:
        """Which share of the rows this process reads: the processes of one model read the same."""
        return self.mesh.data.rank

    @property
    def dataset_world_size(self) -> int:
        return self.mesh.data.degree


def check_positive(values: Any, names: Iterable[str]) -> None:
    for name in names:
        if getattr(values, name) < 1:
            raise InputError(f"--{name} {getattr(values, name)}: expected at least 1")


def parse_sharding_stage(sharding: str, wanted_degree: int, data_degree: int) -> int:
    """0, 1 or 2, from `--sharding`; raises `InputError` for a stage or a degree that there is not."""
    if sharding not in _SHARDING_STAGES:
        raise InputError(
            f"--sharding {sharding}: expected stage1 or stage2 (parameters are cut by "
            "--tensor_parallel_degree, which both can stand beside)"
        )
    stage = _SHARDING_STAGES[sharding]
    if stage and wanted_degree not in (-1, data_degree):
        raise InputError(
            f"--sharding_parallel_degree {wanted_degree}: expected {data_degree}, the number of "
            "data-parallel processes (all processes / tensor_parallel_degree), or leave it out"
        )
    if not stage and wanted_degree > 1:
        raise InputError("--sharding_parallel_degree needs --sharding stage1 or stage2")
    return stage


def parameter_dtype(values: Any) -> str:
    """What weights are held in, by `fp16`, `bf16` and `fp16_opt_level`: half precision at O2 alone."""
    if values.fp16_opt_level == "O2" and (values.fp16 or values.bf16):
        return "float16" if values.fp16 else "bfloat16"
    return "float32"


def _is_rank_zero() -> bool:
    return paddle.distributed.get_rank() == 0


def _choose_device(wanted: str | None) -> str:
    """`cpu` or `gpu`, set as Paddle's current device; raises `InputError` where it is missing."""
    device = use_device(wanted or "auto").partition(":")[0]
    if device == "cpu":
        # Strided views cost more than they save there: steps are 12 to 24 % faster without.
        paddle.set_flags({"FLAGS_use_stride_kernel": False})
    return device
