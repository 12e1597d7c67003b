"""Flags of finetuning runs that fit GPUs of a given memory, by `training.memory_estimate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from paddle_glm.errors import InputError
from paddle_glm.training.command_line import parse_finetune_args
from paddle_glm.training.memory_estimate import (
    MemoryEstimate,
    estimate_training_memory,
    plan_from_flags,
    resolve_config,
)
from paddle_glm.training.thudm_flags import to_finetune_argv

CARDS = (1, 2, 4, 8)
_GIB = 2**30
# Left for fragmentation and workspaces, a part; and for the CUDA context, GiB.
_FRAGMENTATION, _CONTEXT_GIB = 0.08, 1.0
# Below this batch, recomputing for a larger one costs less than small products do.
_SMALL_BATCH = 4
_BATCHES = (8, 4, 2, 1)


@dataclass(frozen=True)
class Recipe:
    """flags: of the command, for `cards` processes; None if nothing fits. memory: of the fullest card."""

    method: str
    cards: int
    flags: str | None = None
    memory: MemoryEstimate | None = None


@dataclass(frozen=True)
class Choices:
    """What recipes of a command choose from, each from fast to small. methods: name -> its flags."""

    methods: dict[str, str]
    always: str
    quantisation: tuple[str, ...]
    degrees: tuple[int, ...]
    sharding: tuple[str, ...]
    recompute: tuple[str, ...]
    offload: tuple[str, ...] = ("",)

    @property
    def flag_names(self) -> set[str]:
        texts = [*self.methods.values(), self.always, *self.quantisation, *self.sharding, *self.recompute]
        texts += self.offload
        names = {word for text in texts for word in text.split() if word.startswith("--")}
        return names | {
            "--tensor_parallel_degree",
            "--sequence_parallel",
            "--per_device_train_batch_size",
        }


_QUANTISATION = ("", "--quantization_bit 8", "--quantization_bit 4")
CHOICES = {
    "finetune": Choices(
        {"all weights": "", "LoRA": "--lora True", "P-Tuning v2": "--pre_seq_len 128"},
        "--bf16 True --fp16_opt_level O2",
        _QUANTISATION,
        CARDS,
        ("", "--sharding stage1", "--sharding stage2", "--sharding stage3"),
        (
            "",
            "--recompute True --recompute_granularity core_attn",
            "--recompute True --recompute_granularity full_attn",
            "--recompute True",
        ),
        ("", "--offload_optim True"),
    ),
    # It recomputes, and holds the frozen model in float16, by itself.
    "ptuning": Choices(
        {"P-Tuning v2": "--do_train --pre_seq_len 128"}, "", _QUANTISATION, (1,), ("",), ("",)
    ),
}


def usable_bytes(gpu_memory: float) -> int:
    """What tensors may take of a card of so many GiB."""
    return int((gpu_memory * (1 - _FRAGMENTATION) - _CONTEXT_GIB) * _GIB)


def find_recipes(
    command: str, model: str, gpu_memory: float, flags: Sequence[str], file: Sequence[str] = ()
) -> list[Recipe]:
    """The fastest recipe that fits, for each method and number of cards.

    Fast is: float weights before quantised ones, no offload, fewer tensor-parallel processes, a lower
    sharding stage, no recomputation unless the batch were small, a larger batch. command: "finetune" or
    "ptuning". flags: further ones of the run, such as lengths; file: a file of them. Raises `InputError` for
    flags that recipes choose, and for those that do not suit a method.
    """
    choices = CHOICES[command]
    names = [word.split("=")[0].replace("-", "_").replace("__", "--", 1) for word in flags]
    chosen = [name for name in names if name in choices.flag_names]
    if chosen:
        raise InputError(f"{chosen[0]}: --gpu_memory chooses it; leave one of them out")
    search = _Search(command, choices, model, usable_bytes(gpu_memory), tuple(flags), tuple(file))
    for own in choices.methods.values():
        search.estimate(own, 1)  # raises for flags that do not go together
    return [search.first_fit(method, cards) for method in choices.methods for cards in CARDS]


@dataclass(frozen=True)
class _Search:
    command: str
    choices: Choices
    model: str
    limit: int
    flags: tuple[str, ...]
    file: tuple[str, ...]

    def first_fit(self, method: str, cards: int) -> Recipe:
        for text in self._candidates(method, cards):
            try:
                memory = self.estimate(text, cards)
            except InputError:  # heads that the processes do not divide
                continue
            if memory.total <= self.limit:
                return Recipe(method, cards, text, memory)
        return Recipe(method, cards)

    def _candidates(self, method: str, cards: int) -> Iterator[str]:
        choices, full = self.choices, method == "all weights"
        bits_of_base = choices.quantisation[: 1 if full else None]
        offloads = choices.offload[: None if full else 1]  # an adapter's state is small
        for bits, offload, degree, sharding in product(
            bits_of_base, offloads, choices.degrees, choices.sharding
        ):
            if degree > cards or (sharding and degree == cards):
                continue
            if sharding and not full and "stage3" not in sharding:
                continue  # an adapter's gradients and state are too small to be shared out
            tensor = f"--tensor_parallel_degree {degree} --sequence_parallel True" if degree > 1 else ""
            large = [batch for batch in _BATCHES if batch >= _SMALL_BATCH]
            for batches in (large, _BATCHES[len(large) :]):
                for recompute, batch in product(choices.recompute, batches):
                    words = (
                        choices.methods[method],
                        choices.always,
                        bits,
                        tensor,
                        sharding,
                        offload,
                        recompute,
                    )
                    yield " ".join([*filter(None, words), f"--per_device_train_batch_size {batch}"])

    def estimate(self, text: str, processes: int) -> MemoryEstimate:
        words = [*text.split(), *self.flags]
        if self.command == "ptuning":
            words = to_finetune_argv(words, on_gpu=True)
        needed = ["--model_name_or_path", self.model, "--output_dir", "-"]
        arguments = parse_finetune_args([*self.file, *needed, *words])
        return estimate_training_memory(plan_from_flags(*arguments, resolve_config(self.model), processes))
