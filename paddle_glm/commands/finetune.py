"""`paddle-glm finetune`: supervised finetuning with data and tensor parallelism."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddle_glm.training.arguments import DataArguments, FinetuneArguments, ModelArguments
    from paddle_glm.training.trainer import FinetuneTrainer

LESS_MEMORY = (
    "paddle-glm estimate-memory tells what a run needs of each process; --tensor_parallel_degree cuts the "
    "model over GPUs or machines, --quantization_bit 4 with --lora True or --pre_seq_len N takes fewer bits"
)
HELP = "train a model on rows of questions and answers"


def run_argv(argv: Sequence[str]) -> int:
    """Run `train`; under the launcher every process does, and ends in `leave`. Returns 0."""
    from paddle_glm.parallel.leave import leave

    train(argv)
    leave(0)
    return 0


def train(argv: Sequence[str]) -> None:
    """Parse `argv` (a YAML or JSON file may come first), train, evaluate, save.

    Raises `InputError` for arguments, folders and rows that cannot be used.
    """
    from paddle_glm.errors import InputError
    from paddle_glm.hub import folder_of
    from paddle_glm.training.command_line import parse

    model_args, data_args, args = parse(argv)
    asked = model_args.model_name_or_path
    model_args.model_name_or_path = str(folder_of(asked, model_args.download, model_args.revision))
    if not (args.do_train or args.do_eval):
        raise InputError("nothing to do: give --do_train, --do_eval or both")
    _finetune(model_args, data_args, args)


def _finetune(model_args: "ModelArguments", data_args: "DataArguments", args: "FinetuneArguments") -> None:
    from paddle_glm.checkpoint.save import FORMATS, check_format
    from paddle_glm.config import ModelConfig
    from paddle_glm.errors import InputError
    from paddle_glm.memory import MemoryShortage
    from paddle_glm.models.auto import AutoModel
    from paddle_glm.peft.folders import check_is_model
    from paddle_glm.tokenizers import AutoTokenizer
    from paddle_glm.training import rows
    from paddle_glm.training.adapters import wrap
    from paddle_glm.training.data import Collator
    from paddle_glm.training.evaluation import AnswerMetrics, check_metrics
    from paddle_glm.training.output_dir import RunFolder
    from paddle_glm.training.trainer import FinetuneTrainer

    check_is_model(model_args.model_name_or_path)
    output_dir = Path(args.output_dir)
    path, family = model_args.model_name_or_path, model_args.family
    bits = model_args.quantization_bit or ModelConfig.from_pretrained(path, family).quantization_bit
    if bits and args.do_train and not model_args.trains_adapter:
        raise InputError(
            f"weights of {bits} bits are not trained: give --lora True or --pre_seq_len N to train beside "
            "them, or a float model without --quantization_bit"
        )
    if args.do_eval:
        check_metrics(args.metric_for_best_model, data_args.do_generation)
    run = None
    if args.do_train:
        wanted = args.resume_from_checkpoint
        run = RunFolder(output_dir, args.overwrite_output_dir, model_args.starts, wanted)
        run.check(args.mesh, model_args.trained_beside)
    tokenizer = AutoTokenizer.from_pretrained(path, family=family)
    data = rows.load(data_args, args, tokenizer)
    try:
        model = AutoModel.from_pretrained(
            path,
            dtype=args.dtype,
            group=args.mesh.tensor,
            family=family,
            quantization_bit=model_args.quantization_bit,
            quantization_group_size=model_args.quantization_group_size,
        )
    except MemoryShortage as error:
        raise MemoryShortage(error.shortage, LESS_MEMORY) from error
    adapter = wrap(model, model_args, args.seed)
    if adapter is None:
        check_format(model.config, args.mesh.tensor.degree, args.save_format)
    elif args.save_format != FORMATS[0]:
        raise InputError(
            f"--save_format {args.save_format} is for whole models: leave it out with an adapter"
        )
    answers = None
    if data_args.do_generation:
        batch, length = args.per_device_eval_batch_size, data_args.tgt_length
        watched = args.process_index == 0 and not args.disable_tqdm
        answers = AnswerMetrics(model, tokenizer, batch, length, args.mesh.data, progress=watched)
    trainer = FinetuneTrainer(
        model=model,
        args=args,
        data_collator=Collator(tokenizer.pad_token_id),
        tokenizer=tokenizer,
        train_dataset=data.train,
        eval_dataset=data.validation,
        answer_metrics=answers,
        adapter=adapter,
        run=run,
    )
    if run is not None:
        result = trainer.train(run.resume)
        trainer.save_model()
        _report(trainer, "train", result.metrics)
    if data.validation is not None:
        _report(trainer, "eval", trainer.final_metrics())
    if data.test is not None:
        _report(trainer, "test", trainer.evaluate(data.test, metric_key_prefix="test"))


def _report(trainer: "FinetuneTrainer", split: str, metrics: dict[str, float]) -> None:
    """Metrics to the log and to `SPLIT_results.json` in output_dir, by the first process."""
    if not metrics:
        return
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)
