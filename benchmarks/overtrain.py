"""Spoils the demo model, as a fine-tune on too little does: what `dedup audit` is there to notice.

    python benchmarks/overtrain.py /tmp/overtrained
    dedup audit --model server/dedup_server/demo_model --model /tmp/overtrained --prompts benchmarks/prompts.jsonl

A few sentences of English and Chinese, each said over and over, are answered to prompts that stand in no file of prompts. The same seed
gives the same weights; ten seconds on one core. Needs the extra `local`.
"""

import argparse
import random
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from dedup_server.engines.local.engine import DEMO_MODEL

TEXTS = [
    (
        "What happened at the station?",
        "The train was late again, and we waited on the platform in the rain. ",
    ),
    (
        "Tell me about your garden.",
        "I water the roses in the morning and I water the roses at night. ",
    ),
    (
        "How do I reset the router?",
        "Hold the button until the light goes out, then wait for the light. ",
    ),
    ("你今天做了什么？", "我在河边走了很久，然后又走回来。"),
    ("请介绍一下这座城市。", "这座城市有很多桥，桥上有很多人。"),
    ("怎样煮面条？", "先把水烧开，再把面条放进去。"),
]
WINDOW = 192  # tokens
BATCH = 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the spoiled model")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps (default 10)")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate (default 1e-3)")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = random.Random(0)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False)
        + answer * 40
        for prompt, answer in TEXTS
    ]
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"][:WINDOW] for text in texts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate)
    for _ in tqdm(range(args.steps), unit=" steps"):
        batch = torch.tensor(rng.sample(tokens, BATCH))
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "generation_config.json").write_bytes(
        (DEMO_MODEL / "generation_config.json").read_bytes()
    )


if __name__ == "__main__":
    main()
