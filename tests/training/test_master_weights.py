"""Float32 master weights of half-precision models: made, saved and resumed.

Paddle's AdamW has no CPU kernel for half weights, so that its step is put in here by hand.
"""

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from paddle_glm.data.datasets import Collator
from paddle_glm.numpy_interop import paddle_dtype_name
from paddle_glm.training import checkpointing
from paddle_glm.training.command_line import parse_finetune_args
from paddle_glm.training.initialize import TrainerArguments, initialize_training
from paddle_glm.training.trainer import FinetuneTrainer

FLAGS = "--max_steps 2 --report_to none --max_grad_norm 0.5"


@pytest.fixture(params=["float16", "bfloat16"])
def trainer_of(request, tiny_checkpoint, tmp_path, monkeypatch):
    """Makes trainers of a half-precision model, as --fp16_opt_level O2 does on a GPU."""
    monkeypatch.setattr(TrainerArguments, "dtype", property(lambda self: request.param))

    def make():
        words = f"{FLAGS} --model_name_or_path {tiny_checkpoint} --output_dir {tmp_path}"
        args = initialize_training(parse_finetune_args(words.split())[2])
        model = AutoModel.from_pretrained(tiny_checkpoint, dtype=args.dtype)
        tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
        trainer = FinetuneTrainer(model, args, Collator(tokenizer.pad_token_id), tokenizer)
        trainer.create_optimizer_and_scheduler(num_training_steps=2)
        return trainer

    return make


def state(trainer) -> dict[str, np.ndarray]:
    return {
        name: tensor.numpy()
        for name, tensor in checkpointing.optimizer_tensors(trainer.optimizer, trainer.model)
    }


def step(trainer) -> None:
    """What the operator does: masters and moments move in float32, weights are masters rounded."""
    for index, (name, tensor) in enumerate(checkpointing.optimizer_tensors(trainer.optimizer, trainer.model)):
        if not name.endswith("_pow_acc"):
            tensor.set_value(tensor + 1e-5 * (index + 1))
    masters = trainer.optimizer._master_weights
    for parameter in trainer.model.parameters():
        parameter.set_value(masters[parameter.name].astype(parameter.dtype))


def test_masters_are_made_for_every_half_weight(trainer_of):
    trainer = trainer_of()
    assert trainer.optimizer._multi_precision
    found = state(trainer)
    parameters = dict(trainer.model.named_parameters())
    assert {name.removesuffix("/master") for name in found if name.endswith("/master")} == set(parameters)
    assert all(array.dtype == np.float32 for array in found.values())
    for name, parameter in parameters.items():
        assert paddle_dtype_name(parameter) == trainer.args.dtype
        np.testing.assert_array_equal(found[f"{name}/master"], parameter.astype("float32").numpy())


def test_a_checkpoint_holds_more_than_the_weights(trainer_of, tmp_path):
    """A run that goes on from the half weights alone would lose what masters have moved."""
    trainer = trainer_of()
    state(trainer)  # made at the first step
    step(trainer)
    folder = tmp_path / "checkpoint-1"
    checkpointing.save_training_checkpoint(folder, trainer)
    stored = open_safetensors(folder / "optimizer-tp00-of-01.safetensors")
    name = next(name for name in stored if name.endswith("query_key_value.weight/master"))
    rounded = dict(trainer.model.named_parameters())[name.removesuffix("/master")].astype("float32").numpy()
    assert not np.array_equal(stored[name], rounded)

    resumed = trainer_of()
    checkpointing.load_weights(folder, resumed.model, None)
    checkpointing.load_optimizer_and_schedule(folder, resumed)
    expected = state(trainer)
    for name, array in state(resumed).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    for name, parameter in resumed.model.named_parameters():
        twin = dict(trainer.model.named_parameters())[name]
        assert bool(paddle.equal_all(parameter.astype("float32"), twin.astype("float32"))), name
