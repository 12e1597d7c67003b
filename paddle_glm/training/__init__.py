"""PaddleNLP's Trainer over our process groups: arguments, optimizer, checkpoints; only here: paddlenlp."""
