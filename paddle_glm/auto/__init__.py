"""Opens things by what their folder holds: configurations, tokenizers, models and backends."""
