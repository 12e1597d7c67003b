"""Rows to samples, PaddleNLP's Trainer over our groups, checkpoints, metrics; alone imports paddlenlp."""
