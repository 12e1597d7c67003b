"""Finetuning of few parameters: prefixes (P-Tuning v2) and LoRA wrap models, which do not know of them."""
