"""Names of all metrics; ROUGE and BLEU of generated answers, computed as in THUDM's `ptuning/main.py`."""

import logging
from collections.abc import Sequence

from paddle_glm.errors import InputError

TOKEN_METRICS = ("loss", "perplexity", "accuracy")
METRIC_NAMES = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")


def score_pair(prediction: str, label: str) -> dict[str, float]:
    """ROUGE-1/2/L F1 and BLEU-4 of one answer, in percent, rounded to four decimals.

    ROUGE is over jieba's words, BLEU over characters up to 4-grams with NLTK's smoothing method 3. All
    four are 0 if the answer or the label has no words: rouge-chinese raises there, which ended THUDM's
    script. Raises `InputError` if a package is missing.
    """
    check_metric_packages()
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge

    jieba.setLogLevel(logging.WARNING)  # it announces its dictionary on stderr
    hypothesis, reference = " ".join(jieba.cut(prediction)), " ".join(jieba.cut(label))
    if not hypothesis.strip() or not reference.strip():
        return dict.fromkeys(METRIC_NAMES, 0.0)
    rouge = Rouge().get_scores(hypothesis, reference)[0]
    bleu = sentence_bleu([list(label)], list(prediction), smoothing_function=SmoothingFunction().method3)
    scores = {name: rouge[name]["f"] for name in METRIC_NAMES[:3]} | {"bleu-4": bleu}
    return {name: round(float(score) * 100, 4) for name, score in scores.items()}


def score(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """The mean of `score_pair` over all pairs, by name (`METRIC_NAMES`).

    Raises `InputError` for no pairs, different lengths, or a missing package.
    """
    if not predictions or len(predictions) != len(labels):
        raise InputError(f"cannot score {len(predictions)} predictions against {len(labels)} labels")
    scores = [score_pair(*pair) for pair in zip(predictions, labels, strict=True)]
    return {name: sum(each[name] for each in scores) / len(scores) for name in METRIC_NAMES}


def check_metric_packages() -> None:
    """Raise `InputError` with the pip command if jieba, rouge-chinese or nltk is missing."""
    import importlib.util

    packages = {"jieba": "jieba", "rouge_chinese": "rouge-chinese", "nltk": "nltk"}
    missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"ROUGE and BLEU need {', '.join(missing)}: pip install {' '.join(missing)}")


def check_requested_metrics(best: str | None, answers: bool) -> None:
    """Raise `InputError` before a run whose evaluations cannot compute a requested metric.

    best: `--metric_for_best_model`; answers: whether answers are generated and scored.
    """
    if answers:
        check_metric_packages()
    known = (*TOKEN_METRICS, *(METRIC_NAMES if answers else ()))
    if best is not None and best.removeprefix("eval_") not in known:
        more = "" if answers else f", with --do_generation also {', '.join(METRIC_NAMES)}"
        raise InputError(f"--metric_for_best_model {best}: evaluation gives {', '.join(known)}{more}")
