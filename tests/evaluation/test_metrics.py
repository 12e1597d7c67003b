"""ROUGE and BLEU against values worked out by hand."""

import importlib.util

import pytest

from paddle_glm.errors import InputError
from paddle_glm.evaluation import metrics


def test_equal_texts_score_100():
    assert metrics.score_pair("白色的裙子很百搭。", "白色的裙子很百搭。") == dict.fromkeys(
        metrics.METRIC_NAMES, 100.0
    )


def test_rouge_counts_words():
    """Blanks separate words for jieba, so the words here are single characters.

    3 of 4 words and 2 of 3 word pairs are shared, and the longest common subsequence has 3 words.
    """
    scores = metrics.score_pair("甲 乙 丙 丁", "甲 乙 丙 戊")
    assert scores["rouge-1"] == pytest.approx(75.0, abs=1e-3)
    assert scores["rouge-2"] == pytest.approx(200 / 3, abs=1e-3)
    assert scores["rouge-l"] == pytest.approx(75.0, abs=1e-3)


def test_rouge_is_the_harmonic_mean_of_precision_and_recall():
    """Both words of the answer are right (precision 1), of four in the label (recall 1/2): F = 2/3."""
    assert metrics.score_pair("甲 乙", "甲 乙 丙 丁")["rouge-1"] == pytest.approx(200 / 3, abs=1e-3)


def test_rouge_uses_jieba_words_not_characters():
    """连衣裙 is one word for jieba: the two texts share no word, though they share two characters."""
    assert metrics.score_pair("连衣裙", "裙衣")["rouge-1"] == 0.0


def test_bleu_counts_characters_with_method_3():
    """1- to 4-gram precisions 3/4, 2/3, 1/2 and 0/1; method 3 makes the last 1/(2*1).

    Their geometric mean is (1/8) ** (1/4) = 0.594604; the lengths are equal, so nothing is taken off.
    """
    assert metrics.score_pair("一二三四", "一二三五")["bleu-4"] == 59.4604


def test_bleu_takes_off_for_short_answers():
    """All 4-grams are right; the brevity penalty is exp(1 - 6/5) = 0.818731."""
    assert metrics.score_pair("一二三四五", "一二三四五六")["bleu-4"] == 81.8731


@pytest.mark.parametrize(("prediction", "label"), [("", "白色"), ("  \n", "白色"), ("白色", ""), ("", "")])
def test_nothing_scores_nothing(prediction, label):
    assert metrics.score_pair(prediction, label) == dict.fromkeys(metrics.METRIC_NAMES, 0.0)


@pytest.mark.parametrize("text", ["。", "白", "？？", "...", "a", "。\n。", "白\n"])
def test_odd_answers_do_not_crash(text):
    scores = metrics.score_pair(text, "白色的裙子很百搭。")
    assert all(0 <= value <= 100 for value in scores.values())


def test_score_is_the_mean():
    assert metrics.score(["甲 乙 丙 丁", ""], ["甲 乙 丙 丁", "甲"]) == dict.fromkeys(
        metrics.METRIC_NAMES, 50.0
    )


def test_nothing_to_compare():
    with pytest.raises(InputError, match="0 predictions"):
        metrics.score([], [])
    with pytest.raises(InputError, match="1 predictions against 2 labels"):
        metrics.score(["a"], ["a", "b"])


def test_missing_package_names_the_pip_command(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "rouge_chinese" else found(name)
    )
    with pytest.raises(InputError, match="pip install rouge-chinese"):
        metrics.score(["a"], ["a"])
