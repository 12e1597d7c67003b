"""Answer the rows of a JSON file in batches; rows that end early cost nothing from then on.

`paddle-glm predict` does the same for any layout of rows, over several GPUs too.
"""

import argparse
import json
from pathlib import Path

from paddle_glm import AutoModel, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo/model", help="model folder, a hub's or ours")
    parser.add_argument("--data_file", default="demo/data/dev.json", help="one JSON object per line")
    parser.add_argument("--prompt_column", default="content", help="key of the question in a row")
    parser.add_argument("--output_file", default="demo/answers.json")
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model)

    lines = Path(args.data_file).read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)[args.prompt_column] for line in lines]
    # Prompts of similar length share a batch, so that little padding is computed.
    order = sorted(range(len(questions)), key=lambda index: len(questions[index]))
    answers = [""] * len(questions)
    for start in range(0, len(order), args.batch_size):
        places = order[start : start + args.batch_size]
        conversations = [[{"role": "user", "content": questions[place]}] for place in places]
        inputs = tokenizer.apply_chat_template(conversations, padding=True, return_tensors="pd")
        outputs = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        generated = outputs[:, inputs.input_ids.shape[1] :]
        for place, text in zip(
            places, tokenizer.batch_decode(generated, skip_special_tokens=True), strict=True
        ):
            answers[place] = text.strip()

    with open(args.output_file, "w", encoding="utf-8") as file:
        for question, answer in zip(questions, answers, strict=True):
            file.write(json.dumps({"prompt": question, "answer": answer}, ensure_ascii=False) + "\n")
    print(f"{args.output_file}: {len(answers)} answers")


if __name__ == "__main__":
    main()
