"""Finetune a model with LoRA in a loop of your own, save the adapter, and answer with it.

`paddle-glm finetune --lora True` does the same with checkpoints, resuming, evaluation and several GPUs.
"""

import argparse

import numpy as np
import paddle

from paddle_glm import AutoModel, AutoTokenizer
from paddle_glm.data.data_files import load_examples
from paddle_glm.data.datasets import Collator, SupervisedDataset
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo/model", help="model folder, a hub's or ours")
    parser.add_argument("--data_file", default="demo/data/train.json", help="rows of questions and answers")
    parser.add_argument("--output_dir", default="demo/lora_python", help="where the adapter is saved")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model, dtype="float32")
    adapter = attach_lora(model, LoraConfig(rank=8, alpha=16, dropout=0.1))
    adapter.freeze_base_model()  # everything but the adapter

    examples = load_examples(args.data_file)
    samples = SupervisedDataset(examples, tokenizer.template, tokenizer, src_length=64, tgt_length=64)
    collate = Collator(tokenizer.pad_token_id)
    trained = [parameter for _, parameter in adapter.parameters()]
    optimizer = paddle.optimizer.AdamW(learning_rate=1e-2, parameters=trained)

    model.train()
    generator = np.random.default_rng(seed=0)
    for step in range(1, args.steps + 1):
        chosen = generator.integers(len(samples), size=args.batch_size)
        batch = collate([samples[index] for index in chosen])
        loss = model(**{name: paddle.to_tensor(array) for name, array in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        if step == 1 or step % 10 == 0:
            print(f"step {step}: loss {float(loss):.3f}")

    adapter.save_pretrained(args.output_dir, overwrite=True)  # PEFT's files

    tuned = AutoModel.from_pretrained(args.model, lora_path=args.output_dir)
    response, _ = tuned.chat(tokenizer, "类型#裙*颜色#白色*风格#简约", max_new_tokens=64, do_sample=False)
    print(response)


if __name__ == "__main__":
    main()
