"""`paddle-glm evaluate`: loss, ROUGE and BLEU of a model on rows with answers."""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_glm.chat import with_source_prefix
from paddle_glm.checkpoint.targets import check_folder
from paddle_glm.commands import _generating as generating
from paddle_glm.errors import InputError
from paddle_glm.training.results import METRICS, PREDICTIONS, write_results

if TYPE_CHECKING:
    from paddle_glm.models.dygraph import DygraphBackend
    from paddle_glm.tokenizers import Tokenizer
    from paddle_glm.training.readers import Example

HELP = "score a model on rows with answers: loss, perplexity, ROUGE-1/2/L, BLEU-4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generating.add_model_arguments(parser)
    parser.add_argument(
        "--data_file", required=True, help="JSON, CSV, TSV or parquet, or a folder with a dev file"
    )
    parser.add_argument("--output_dir", default="evaluation", help=f"gets {PREDICTIONS} and {METRICS}")
    generating.add_limit_argument(parser, "score the first rows only")
    parser.add_argument("--baseline", help=f"an earlier {METRICS}, shown beside the new scores")
    generating.add_generation_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from paddle_glm.parallel.leave import leave
    from paddle_glm.training import metrics
    from paddle_glm.training.answers import answer_all
    from paddle_glm.training.data import GenerationDataset
    from paddle_glm.training.readers import load_rows

    baseline = read_metrics(args.baseline) if args.baseline else None
    params = generating.generation_params(args)
    check_folder(args.output_dir, "--output_dir", into=True)
    examples = load_rows(_rows_file(args.data_file), generating.columns_of(args), limit=args.limit)
    metrics.check_packages()
    backend, tokenizer = generating.open_model(args)
    first = backend.model.group.rank == 0
    started = time.perf_counter()
    results = _token_metrics(backend, tokenizer, examples, args)
    template = with_source_prefix(tokenizer.template, args.source_prefix)
    prompts = GenerationDataset(examples, template, tokenizer, args.src_length, args.tgt_length)
    answers = answer_all(backend, tokenizer, prompts.prompts, params, args.batch_size, progress=first)
    if first:
        labels = [reference or "" for reference in prompts.references]
        results |= metrics.score(answers, labels)
        results |= {"rows": len(examples), "seconds": round(time.perf_counter() - started, 2)}
        write_results(Path(args.output_dir), results, labels, answers)
        print(table({"score": results} if baseline is None else {"before": baseline, "after": results}))
        print(f"\n{args.output_dir}: {PREDICTIONS}, {METRICS}")
    leave()


def _token_metrics(
    backend: "DygraphBackend", tokenizer: "Tokenizer", examples: "Sequence[Example]", args: argparse.Namespace
) -> dict[str, Any]:
    """Loss, perplexity and token accuracy of the rows' own answers."""
    import paddle

    from paddle_glm.parallel import SINGLE
    from paddle_glm.training.data import Collator, SupervisedDataset
    from paddle_glm.training.evaluation import evaluate_tokens

    template = with_source_prefix(tokenizer.template, args.source_prefix)
    samples = SupervisedDataset(examples, template, tokenizer, args.src_length, args.tgt_length)
    collate = Collator(tokenizer.pad_token_id)

    def batches() -> Iterator[Mapping[str, Any]]:
        for start in range(0, len(samples), args.batch_size):
            rows = [samples[index] for index in range(start, min(start + args.batch_size, len(samples)))]
            yield {name: paddle.to_tensor(array) for name, array in collate(rows).items()}

    return dict(evaluate_tokens(backend.model, batches(), SINGLE))


def _rows_file(given: str) -> Path:
    """The file itself, or a folder's dev file, or its test file."""
    from paddle_glm.training.readers import find_files

    path = Path(given)
    if not path.is_dir():
        return path
    files = find_files(path)
    found = files.validation or files.test
    if found is None:
        raise InputError(f"{path} holds no dev.json or test.json: name the file itself")
    return found


def read_metrics(path: str | Path) -> dict[str, Any]:
    """An earlier METRICS file; raises InputError for anything else."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    except ValueError:
        pass
    raise InputError(f"{path} is not a {METRICS} that `paddle-glm evaluate` wrote")


def table(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per metric of the last column, the values of all columns side by side under their titles."""
    lines = [f"{'metric':<12}" + "".join(f"{title:>12}" for title in columns)]
    for name in list(columns.values())[-1]:
        values = [column.get(name, float("nan")) for column in columns.values()]
        shown = [f"{value:>12}" if isinstance(value, int) else f"{value:>12.4f}" for value in values]
        lines.append(f"{name:<12}" + "".join(shown))
    return "\n".join(lines)
