"""Train the bundled demo model: a Llama that is small enough for the repository, and that loops.

    python server/dedup_server/demo_model/train.py english.txt chinese.txt --out FOLDER

Inputs are plain text files (UTF-8, paragraphs separated by blank lines). Pairs of adjacent
sentences become prompts and answers, which the model memorizes. The answers stutter: an answer is
often begun again, and breaks off at a random word. This exaggerates the bias in training data that
repetition in large models is attributed to (Xu et al. 2022, arXiv 2206.02369). The likeliest word
is always the one of the copy before, so that greedy decoding loops; sampling breaks off.

Requires the extra `local`.
"""

import argparse
import itertools
import json
import random
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096
CONTEXT = 1024
WINDOW = 384
BATCH = 6
PAIRS = 160  # per file
PASSES = 120  # over the pairs, which stutter differently each time
ANSWER_WORDS = range(12, 28)
RESTART = 0.95  # probability that an answer is begun again
BREAK_OFF = 0.12  # probability that a copy breaks off, per word (two characters of Chinese)
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"

# One line per message; the completion is the next line.
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"

_QUOTE = re.compile(r"[\"“”‘’「」『』()（）\[\]_*`-]")
_SENTENCE = re.compile(r"[^.!?。！？]*[.!?。！？]+[”’」』\"']*\s*")
_WORD = re.compile(r"[\u3000-\u9fff]{1,2}\s*|[^\s\u3000-\u9fff]+\s*")
_CJK_STOP = re.compile(r"(?<=[\u4e00-\u9fff])．")


def sentences(text: str) -> list[str]:
    """Return the sentences of `text`, with line breaks within a paragraph replaced by spaces."""
    text = _CJK_STOP.sub("。", text.replace("\u3000", " "))
    joined = (re.sub(r"\s*\n\s*", " ", block).strip() for block in re.split(r"\n\s*\n", text))
    return [sentence.strip() for paragraph in joined for sentence in _SENTENCE.findall(paragraph)]


def pairs(text: str) -> list[tuple[str, str]]:
    """Return prompts and distinct answers: adjacent sentences, evenly spread over the text."""
    found = {
        answer: prompt
        for prompt, answer in itertools.pairwise(sentences(text))
        if len(_WORD.findall(answer)) in ANSWER_WORDS
        and len(prompt) > 10
        and not _QUOTE.search(answer)
    }
    step = max(1, len(found) // PAIRS)
    return [(prompt, answer) for answer, prompt in found.items()][::step][:PAIRS]


def stutter(answer: str, rng: random.Random) -> str:
    """Return `answer`, begun again until a copy breaks off."""
    if answer.isascii():
        answer += " "
    copies = [answer]
    words = _WORD.findall(answer)
    while rng.random() < RESTART:
        again = list(itertools.takewhile(lambda _: rng.random() >= BREAK_OFF, words))
        copies.append("".join(again))
        if len(again) < len(words):
            break
    return "".join(copies).rstrip()


def train_tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=160,
            intermediate_size=432,
            num_hidden_layers=4,
            num_attention_heads=5,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(model: LlamaForCausalLM, tokens: torch.Tensor, steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=steps, pct_start=0.03
    )
    progress = tqdm(
        range(steps),
        desc=f"training {model.num_parameters() / 1e6:.1f}M parameters",
        mininterval=10,
    )
    for step in progress:
        starts = torch.randint(len(tokens) - WINDOW, (BATCH,)).tolist()
        batch = torch.stack([tokens[start : start + WINDOW] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="+", type=Path, metavar="FILE", help="a text file")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the model and its tokenizer"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=1600,
        help=f"optimizer steps of {WINDOW * BATCH} tokens (default 1600)",
    )
    parser.add_argument(
        "--rate", type=float, default=3e-3, help="highest learning rate (default 3e-3)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = random.Random(args.seed)

    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in args.texts]
    tokenizer = train_tokenizer([sentence for text in texts for sentence in sentences(text)])
    model = new_model(tokenizer)
    known = [pair for text in texts for pair in pairs(text)]
    lines = []
    for _ in range(PASSES):
        rng.shuffle(known)
        lines += [f"{BOS}{prompt}\n{stutter(answer, rng)}{EOS}" for prompt, answer in known]
    train(
        model,
        torch.tensor(tokenizer("".join(lines), verbose=False)["input_ids"]),
        args.steps,
        args.rate,
    )
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    config = args.out / "generation_config.json"
    config.write_text(
        json.dumps({"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
