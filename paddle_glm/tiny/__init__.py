"""Everything a first run needs, made here: rows from a grammar, a tokenizer, a small random model."""
