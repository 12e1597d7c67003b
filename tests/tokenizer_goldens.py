"""What every family's tokenizer is held to: the originals' recorded texts and pairs.

A test module that imports these two gives the fixtures `real` (a tokenizer) and `golden` (its records).
"""


def test_texts(real, golden):
    for case in golden["texts"]:
        text = case["text"]
        assert real.tokenize(text) == case["tokens"]
        assert real.convert_tokens_to_ids(case["tokens"]) == case["ids"]
        assert real.encode(text, add_special_tokens=False) == case["ids"]
        assert real.encode(text) == case["ids_special"]
        assert real.decode(case["ids"]) == case["decode"]
        assert real.decode(case["ids_special"]) == case["decode_special"]
        assert real.decode(case["ids_special"], skip_special_tokens=True) == case["decode_skip"]


def test_pairs(real, golden):
    for case in golden["pairs"]:
        first = real.encode(case["a"], add_special_tokens=False)
        second = real.encode(case["b"], add_special_tokens=False)
        assert (first, second) == (case["a_ids"], case["b_ids"])
        assert real.build_inputs_with_special_tokens(first, second) == case["built"]
        assert real(case["a"], case["b"])["input_ids"] == case["pair"]
        assert real.encode(case["a"], case["b"]) == case["pair"]
