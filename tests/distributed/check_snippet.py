"""Worker: THUDM's snippet for several GPUs, line for line; prints the answer as one JSON line."""

import json
import sys

from paddle_glm import AutoTokenizer, load_model_on_gpus
from paddle_glm.parallel.shutdown import exit_all_ranks

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
model = load_model_on_gpus(sys.argv[1], num_gpus=2)
model = model.eval()
response, history = model.chat(tokenizer, "你好", history=[], do_sample=False, max_new_tokens=12)
result = {"rank": model.group.rank, "degree": model.group.degree, "response": response}
sys.stdout.write("RESULT " + json.dumps(result) + "\n")
sys.stdout.flush()
exit_all_ranks()
