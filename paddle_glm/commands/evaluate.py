"""`paddle-glm evaluate`: loss, ROUGE and BLEU of a model on rows with reference answers."""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_glm.chat_template import with_source_prefix
from paddle_glm.checkpoint.output_checks import check_output_folder
from paddle_glm.commands import _model_arguments as model_arguments
from paddle_glm.errors import InputError
from paddle_glm.evaluation.result_files import METRICS_FILE, PREDICTIONS_FILE, write_predictions_and_metrics

if TYPE_CHECKING:
    from paddle_glm.data.data_files import Example
    from paddle_glm.models.dygraph import DygraphBackend
    from paddle_glm.tokenizers import Tokenizer

HELP = "evaluate a model on rows with answers: loss, perplexity, ROUGE-1/2/L, BLEU-4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments.add_model_arguments(parser)
    parser.add_argument(
        "--data_file", required=True, help="JSON, CSV, TSV or parquet, or a folder with a dev file"
    )
    parser.add_argument(
        "--output_dir", default="evaluation", help=f"folder for {PREDICTIONS_FILE} and {METRICS_FILE}"
    )
    model_arguments.add_limit_argument(parser, "evaluate only the first N rows")
    parser.add_argument("--baseline", help=f"an earlier {METRICS_FILE} to print next to the new scores")
    model_arguments.add_generation_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from paddle_glm.data.data_files import load_examples
    from paddle_glm.data.datasets import GenerationDataset
    from paddle_glm.evaluation import metrics
    from paddle_glm.evaluation.batch_generation import generate_for_scoring
    from paddle_glm.parallel.shutdown import exit_all_ranks

    baseline = read_metrics(args.baseline) if args.baseline else None
    params = model_arguments.generation_params(args)
    check_output_folder(args.output_dir, "--output_dir", allow_existing=True)
    examples = load_examples(
        _resolve_data_file(args.data_file), model_arguments.columns_from_args(args), limit=args.limit
    )
    metrics.check_metric_packages()
    backend, tokenizer = model_arguments.open_model(args)
    first = backend.model.group.rank == 0
    started = time.perf_counter()
    results = _token_metrics(backend, tokenizer, examples, args)
    template = with_source_prefix(tokenizer.template, args.source_prefix)
    prompts = GenerationDataset(examples, template, tokenizer, args.src_length, args.tgt_length)
    answers = generate_for_scoring(
        backend, tokenizer, prompts.prompts, params, args.batch_size, progress=first
    )
    if first:
        labels = [reference or "" for reference in prompts.references]
        results |= metrics.score(answers, labels)
        results |= {"rows": len(examples), "seconds": round(time.perf_counter() - started, 2)}
        write_predictions_and_metrics(Path(args.output_dir), results, labels, answers)
        print(
            format_table({"score": results} if baseline is None else {"before": baseline, "after": results})
        )
        print(f"\n{args.output_dir}: {PREDICTIONS_FILE}, {METRICS_FILE}")
    exit_all_ranks()


def _token_metrics(
    backend: "DygraphBackend", tokenizer: "Tokenizer", examples: "Sequence[Example]", args: argparse.Namespace
) -> dict[str, Any]:
    """`TOKEN_METRICS` of the reference answers."""
    import paddle

    from paddle_glm.data.datasets import Collator, SupervisedDataset
    from paddle_glm.evaluation.token_metrics import evaluate_tokens
    from paddle_glm.parallel import SINGLE_PROCESS

    template = with_source_prefix(tokenizer.template, args.source_prefix)
    samples = SupervisedDataset(examples, template, tokenizer, args.src_length, args.tgt_length)
    collate = Collator(tokenizer.pad_token_id)

    def batches() -> Iterator[Mapping[str, Any]]:
        for start in range(0, len(samples), args.batch_size):
            rows = [samples[index] for index in range(start, min(start + args.batch_size, len(samples)))]
            yield {name: paddle.to_tensor(array) for name, array in collate(rows).items()}

    return dict(evaluate_tokens(backend.model, batches(), SINGLE_PROCESS))


def _resolve_data_file(given: str) -> Path:
    """The file, or the dev file of a folder, or its test file."""
    from paddle_glm.data.data_files import find_data_files

    path = Path(given)
    if not path.is_dir():
        return path
    files = find_data_files(path)
    found = files.validation or files.test
    if found is None:
        raise InputError(f"{path} holds no dev.json or test.json: name the file itself")
    return found


def read_metrics(path: str | Path) -> dict[str, Any]:
    """The content of an earlier metrics file; raises `InputError` for any other file."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    except ValueError:
        pass
    raise InputError(f"{path} is not a {METRICS_FILE} that `paddle-glm evaluate` wrote")


def format_table(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """A table with a line per metric of the last column; columns: title -> metric -> value."""
    lines = [f"{'metric':<12}" + "".join(f"{title:>12}" for title in columns)]
    for name in list(columns.values())[-1]:
        values = [column.get(name, float("nan")) for column in columns.values()]
        shown = [f"{value:>12}" if isinstance(value, int) else f"{value:>12.4f}" for value in values]
        lines.append(f"{name:<12}" + "".join(shown))
    return "\n".join(lines)
