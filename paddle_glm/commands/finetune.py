"""`paddle-glm finetune`: supervised finetuning with data and tensor parallelism."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_glm.commands._sampling_arguments import GREEDY
from paddle_glm.generation.params import GenerationParams

if TYPE_CHECKING:
    from paddle_glm.config import ModelConfig
    from paddle_glm.data.datasets import EvaluationDataset
    from paddle_glm.evaluation.generation_metrics import GenerationMetrics
    from paddle_glm.parallel.watchdog import Watchdog
    from paddle_glm.training.arguments import DataArguments
    from paddle_glm.training.initialize import TrainerArguments
    from paddle_glm.training.model_arguments import ModelArguments
    from paddle_glm.training.trainer import FinetuneTrainer

MEMORY_HINT = (
    "paddle-glm estimate-memory computes what each process needs; --tensor_parallel_degree splits the "
    "model over GPUs or machines, --quantization_bit 4 with --lora True or --pre_seq_len N takes less memory"
)
HELP = "train a model on rows of questions and answers"


def run_argv(argv: Sequence[str]) -> int:
    """Run `train`; under the launcher every process calls it and `exit_all_ranks`. Returns 0."""
    train(argv)
    from paddle_glm.parallel.shutdown import exit_all_ranks

    exit_all_ranks(0)
    return 0


def train(argv: Sequence[str], generation_params: GenerationParams = GREEDY) -> None:
    """Train, save, evaluate and predict as `argv` says; a YAML or JSON file of arguments may come first.

    generation_params: sampling of generated answers; `argv` gives its seed, beams and lengths.

    Raises `InputError` for arguments, folders and rows that cannot be used.
    """
    from paddle_glm.errors import InputError
    from paddle_glm.hub import resolve_model_folder
    from paddle_glm.training.command_line import parse_finetune_args

    model_args, data_args, finetune_args = parse_finetune_args(argv)

    from paddle_glm.parallel.watchdog import watch_ranks
    from paddle_glm.training.initialize import initialize_training

    args = initialize_training(finetune_args)
    model_args.model_name_or_path = str(
        resolve_model_folder(model_args.model_name_or_path, model_args.download, model_args.revision)
    )
    if not (args.do_train or args.do_eval or args.do_predict):
        raise InputError("nothing to do: give --do_train, --do_eval, --do_predict, or several of them")
    params = _generation_params(generation_params, data_args, args.seed)
    with watch_ranks(finetune_args.hang_timeout) as watchdog:
        _finetune(model_args, data_args, args, params, watchdog)


def _generation_params(params: GenerationParams, data_args: "DataArguments", seed: int) -> GenerationParams:
    """`params` with the lengths, seed and beams of the flags."""
    beams = data_args.num_beams or params.num_beams
    return params.updated(
        {
            "max_new_tokens": data_args.eval_tgt_length,
            "seed": seed,
            "num_beams": beams,
            "do_sample": params.do_sample and beams == 1,
        }
    )


def _finetune(
    model_args: "ModelArguments",
    data_args: "DataArguments",
    args: "TrainerArguments",
    generation_params: GenerationParams,
    watchdog: "Watchdog | None" = None,
) -> None:
    from paddle_glm.auto.model import AutoModel
    from paddle_glm.auto.tokenizer import AutoTokenizer
    from paddle_glm.backends.generation_defaults import default_generation_params
    from paddle_glm.checkpoint.save import FORMATS, check_format
    from paddle_glm.config import ModelConfig
    from paddle_glm.data.datasets import Collator
    from paddle_glm.errors import InputError
    from paddle_glm.evaluation.generation_metrics import GenerationMetrics
    from paddle_glm.evaluation.metrics import check_requested_metrics
    from paddle_glm.load_memory import InsufficientMemoryError
    from paddle_glm.peft.adapter_folder import check_is_model_folder
    from paddle_glm.training.adapter_setup import create_adapter
    from paddle_glm.training.callbacks import ProgressCallback
    from paddle_glm.training.failures import check_ranks_agree
    from paddle_glm.training.output_dir import RunFolder
    from paddle_glm.training.run_datasets import load_run_datasets
    from paddle_glm.training.trainer import FinetuneTrainer

    check_is_model_folder(model_args.model_name_or_path)
    path, family = model_args.model_name_or_path, model_args.family
    _check_method(model_args, ModelConfig.from_pretrained(path, family), args.do_train)
    if args.do_eval:
        check_requested_metrics(args.metric_for_best_model, data_args.do_generation)
    run_folder = None
    if args.do_train:
        run_folder = RunFolder(
            Path(args.output_dir),
            args.overwrite_output_dir,
            model_args.source_folders,
            args.resume_from_checkpoint,
        )
        run_folder.check(model_args.adapter_config_file)
    if watchdog is not None:
        resume = None if run_folder is None else run_folder.resume
        check_ranks_agree(watchdog, args.flags, data_args, model_args, resume)
    tokenizer = AutoTokenizer.from_pretrained(path, family=family)
    datasets = load_run_datasets(data_args, args, tokenizer)
    try:
        model = AutoModel.from_pretrained(
            path,
            dtype=args.dtype,
            group=args.mesh.tensor,
            family=family,
            quantization_bit=model_args.quantization_bit,
            quantization_group_size=model_args.quantization_group_size,
        )
    except InsufficientMemoryError as error:
        raise InsufficientMemoryError(error.shortage, MEMORY_HINT) from error
    adapter = create_adapter(model, model_args, args.seed)
    if adapter is None:
        check_format(model.config, args.mesh.tensor.degree, args.save_format)
    elif args.save_format != FORMATS[0]:
        raise InputError(
            f"--save_format {args.save_format} is for whole models: leave it out with an adapter"
        )
    generation_metrics = None
    if data_args.do_generation or datasets.predict is not None:
        batch = args.per_device_eval_batch_size
        progress = args.process_index == 0 and not args.disable_tqdm
        params = default_generation_params(model.config, generation_params)
        generation_metrics = GenerationMetrics(model, tokenizer, batch, params, args.mesh.data, progress)
    trainer = FinetuneTrainer(
        model=model,
        args=args,
        data_collator=Collator(tokenizer.pad_token_id),
        tokenizer=tokenizer,
        train_dataset=datasets.train,
        eval_dataset=datasets.validation,
        generation_metrics=generation_metrics,
        adapter=adapter,
        run_folder=run_folder,
    )
    if watchdog is not None:
        trainer.add_callback(ProgressCallback(watchdog))
    if run_folder is not None:
        result = trainer.train(run_folder.resume)
        trainer.save_model()
        trainer.save_state()
        _report(trainer, "train", result.metrics, datasets.train_rows)
    if datasets.validation is not None:
        _report(trainer, "eval", trainer.final_metrics(), len(datasets.validation))
    if datasets.test is not None:
        metrics = trainer.evaluate(datasets.test, metric_key_prefix="test")
        _report(trainer, "test", metrics, len(datasets.test))
    if datasets.predict is not None:
        _predict(trainer, datasets.predict, generation_metrics)


def _check_method(model_args: "ModelArguments", config: "ModelConfig", training: bool) -> None:
    """Raise `InputError` where quantised weights would be trained, or an untrained prefix used."""
    from paddle_glm.errors import InputError

    bits = model_args.quantization_bit or config.quantization_bit
    if bits and training and not model_args.trains_adapter:
        raise InputError(
            f"weights of {bits} bits are not trained: give --lora True or --pre_seq_len N to train an "
            "adapter, or a float model without --quantization_bit"
        )
    trained = training or model_args.ptuning_checkpoint or config.pre_seq_len
    if model_args.prefix_length and not trained:
        raise InputError(
            f"--pre_seq_len {model_args.prefix_length}: there is no trained prefix; give "
            "--ptuning_checkpoint FOLDER, or train one with --do_train"
        )


def _predict(
    trainer: "FinetuneTrainer", rows: "EvaluationDataset", generation_metrics: "GenerationMetrics | None"
) -> None:
    """Answer rows; write `generated_predictions.txt`, `predict_results.json` and `metrics.json`."""
    from paddle_glm.evaluation.result_files import write_predictions_and_metrics

    assert generation_metrics is not None and rows.generation is not None
    metrics = trainer.evaluate(rows, metric_key_prefix="predict")
    count = len(generation_metrics.predictions)
    _report(trainer, "predict", metrics, count)
    if trainer.args.process_index == 0:
        plain = {name.removeprefix("predict_"): value for name, value in metrics.items()}
        labels = [reference or "" for reference in rows.generation.references[:count]]
        write_predictions_and_metrics(
            Path(trainer.args.output_dir), {**plain, "rows": count}, labels, generation_metrics.predictions
        )


def _report(trainer: "FinetuneTrainer", split: str, metrics: dict[str, float], rows: int) -> None:
    """Log metrics and number of rows, and write them to `SPLIT_results.json` in output_dir (rank 0).

    No metrics, no file: a resumed run may have nothing left to train.
    """
    if not metrics:
        return
    Path(trainer.args.output_dir).mkdir(parents=True, exist_ok=True)
    metrics = {**metrics, f"{split}_samples": rows}
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)
