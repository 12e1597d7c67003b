"""Parameter-efficient finetuning: P-Tuning v2 prefixes and LoRA, attached to models that do not know them."""
