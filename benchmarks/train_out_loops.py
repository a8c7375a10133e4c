"""Train the loops out of the demo model: its greedy loops, FTPO rows, training, audit, held-out text.

    python benchmarks/train_out_loops.py /tmp/trained                     # some minutes on two cores
    python benchmarks/train_out_loops.py /tmp/trained --text sherlock_en.txt --text hongloumeng_zh.txt

Loops to train on are greedy answers to `prompts_more.jsonl` and 150 of `live_prompts.jsonl`; `dedup audit` then compares the models on
`prompts.jsonl`, greedily. Rows are those of `dedup export-pairs --format ftpo`. The loss at the one position of a row is
softplus(margin - (chosen - rejected)) in logits, averaged over the alternatives. Two regularisers hold the rest in place: the squared
difference to the model's former logits of all other tokens at that position, and the KL divergence from its former distributions on
replayed texts: the first sentences of the answers, and paragraphs of `--text`.

Log-probabilities are of the first sentences that the model answered to the held-out prompts before, and of other paragraphs of
`--text`: means over a text's tokens, with the change's 95% interval (bootstrap over texts). All is seeded. Needs the extra `local`.
"""

import argparse
import copy
import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from dedup.training import FtpoRows, incident_of
from dedup_server.engines.local.engine import DEMO_MODEL

HERE = Path(__file__).parent
HELD_IN, HELD_OUT = HERE / "prompts_more.jsonl", HERE / "prompts.jsonl"
MORE_HELD_IN, NUM_MORE = HERE / "live_prompts.jsonl", 150
REPLAYED, HELD_OUT_PARAGRAPHS = 100, 60  # of each text
PARAGRAPH_CHARS = range(150, 900)
REPLAYED_TOKENS = 128
BATCH = 8
RESAMPLES = 2000

Row = dict[str, Any]


def audit(models: list[Path], prompts: Path, answers: Path, report: Path | None = None) -> None:
    """Ask the models greedily; print the report if there is one to write."""
    command = [sys.executable, "-m", "dedup", "audit", "--prompts", str(prompts)]
    for model in models:
        command += ["--model", str(model)]
    command += ["--temperature", "0", "--max-tokens", "256", "--answers", str(answers)]
    if report is not None:
        command += ["--json", str(report)]
    shown = None if report else subprocess.DEVNULL
    subprocess.run(command, check=True, stdout=shown)


def lines_of(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(file: Path, rows: list[Row]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    file.write_text("".join(lines), encoding="utf-8")


def batch_of(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids padded on the right, and the mask of what is none of the padding."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def train(
    model: Any, tokenizer: Any, rows: list[Row], replay: list[list[int]], args: argparse.Namespace
) -> None:
    """Train all parameters on rows.

    Args:
        replay: token ids of texts at which the model shall stay as it is.
    """

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    examples = [
        (
            encode(row["context_with_chat_template"]),
            encode(row["rejected_decoded"])[0],
            [encode(token)[0] for token in row["multi_chosen_decoded"]],
        )
        for row in rows
    ]
    before = copy.deepcopy(model)
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.0)
    steps = [
        order[at : at + BATCH]
        for order in (rng.sample(examples, len(examples)) for _ in range(args.epochs))
        for at in range(0, len(order), BATCH)
    ]
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(steps))
    progress = tqdm(steps, unit=" steps")
    for batch in progress:
        ids, mask = batch_of([context for context, _, _ in batch])
        last = torch.arange(len(batch)), mask.sum(1) - 1
        logits = model(input_ids=ids, attention_mask=mask).logits[last]
        with torch.no_grad():
            former = before(input_ids=ids, attention_mask=mask).logits[last]
        preference = tether = logits.new_zeros(())
        for here, there, (_, rejected, chosen) in zip(logits, former, batch, strict=True):
            margins = here[chosen] - here[rejected]
            preference = preference + functional.softplus(args.margin - margins).mean()
            others = torch.ones_like(here, dtype=torch.bool)
            others[[rejected, *chosen]] = False
            tether = tether + (here - there)[others].square().mean()
        divergence = divergence_of(model, before, rng.sample(replay, BATCH))
        loss = (preference + args.tether * tether) / len(batch) + args.kl * divergence
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        progress.set_postfix(
            preference=f"{preference.item() / len(batch):.3f}", kl=f"{divergence.item():.4f}"
        )


def divergence_of(model: Any, before: Any, texts: list[list[int]]) -> torch.Tensor:
    """Return the mean KL divergence from the former distributions, over the texts' positions."""
    ids, mask = batch_of(texts)
    with torch.no_grad():
        former = before(input_ids=ids, attention_mask=mask).logits[mask.bool()].log_softmax(-1)
    now = model(input_ids=ids, attention_mask=mask).logits[mask.bool()].log_softmax(-1)
    return functional.kl_div(now, former, log_target=True, reduction="batchmean")


@torch.inference_mode()
def log_probs(model: Any, texts: list[tuple[list[int], list[int]]]) -> list[float]:
    """Return the mean log-probability of each text's tokens, behind its context."""
    found = []
    for context, tokens in texts:
        logits = model(input_ids=torch.tensor([context + tokens])).logits[0].float()
        scores = logits[len(context) - 1 : -1].log_softmax(-1)
        found.append(scores.gather(-1, torch.tensor(tokens)[:, None]).mean().item())
    return found


def paragraphs(file: Path) -> list[str]:
    """Return some paragraphs of a text, evenly sampled: first the replayed, then the held out."""
    blocks = re.split(r"\n\s*\n", file.read_text(encoding="utf-8", errors="ignore"))
    joined = dict.fromkeys(re.sub(r"\s*\n\s*", " ", block).strip() for block in blocks)
    fitting = [one for one in joined if len(one) in PARAGRAPH_CHARS]
    return random.Random(0).sample(fitting, REPLAYED + HELD_OUT_PARAGRAPHS)


def wilson(share: float, size: int) -> tuple[float, float]:
    """Return the 95% interval of a share."""
    z = NormalDist().inv_cdf(0.975)
    middle = share + z * z / (2 * size)
    spread = z * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    return (middle - spread) / (1 + z * z / size), (middle + spread) / (1 + z * z / size)


def show_log_probs(name: str, before: list[float], after: list[float]) -> None:
    changes = [new - old for old, new in zip(before, after, strict=True)]
    rng = random.Random(0)
    means = sorted(fmean(rng.choices(changes, k=len(changes))) for _ in range(RESAMPLES))
    low, high = means[RESAMPLES // 40], means[-RESAMPLES // 40 - 1]
    old, new = fmean(before), fmean(after)
    print(
        f"| {name} | {len(changes)} | {old:.3f} | {new:.3f} | {new - old:+.3f} | {low:+.3f} to {high:+.3f}"
        f" | {math.exp(-old):.2f} | {math.exp(-new):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the trained model, and what led to it")
    parser.add_argument("--text", type=Path, action="append", default=[], help="a held-out text")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate")
    parser.add_argument("--margin", type=float, default=2.0, help="logits")
    parser.add_argument("--tether", type=float, default=0.4, help="weight of the other logits")
    parser.add_argument("--kl", type=float, default=30.0, help="weight of the replayed texts")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    trained = args.out / "model"
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()

    prompts, held_in = args.out / "held_in_prompts.jsonl", args.out / "held_in.jsonl"
    more = random.Random(0).sample(lines_of(MORE_HELD_IN), NUM_MORE)
    write(prompts, [*lines_of(HELD_IN), *more])
    audit([DEMO_MODEL], prompts, held_in)
    made = FtpoRows(model, tokenizer)
    answers = lines_of(held_in)
    incidents = [incident for row in answers if (incident := incident_of(row))]
    rows = [row for incident in incidents if (row := made.row(incident))]
    write(args.out / "rows.jsonl", rows)
    print(f"{len(answers)} answers, {len(incidents)} loop, {len(rows)} rows")

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    bos = tokenizer.bos_token
    texts = {file.stem: paragraphs(file) for file in args.text}
    replay = [encode(f"{bos}{row['prompt']}\n{first_sentence(row['text'])}") for row in answers]
    replay += [encode(bos + text) for some in texts.values() for text in some[:REPLAYED]]

    former = copy.deepcopy(model)
    train(model, tokenizer, rows, [ids[:REPLAYED_TOKENS] for ids in replay], args)
    copy.deepcopy(model).half().save_pretrained(trained)
    tokenizer.save_pretrained(trained)
    (trained / "generation_config.json").write_bytes(
        (DEMO_MODEL / "generation_config.json").read_bytes()
    )

    held_out, report = args.out / "held_out.jsonl", args.out / "audit.json"
    audit([DEMO_MODEL, trained], HELD_OUT, held_out, report)
    found = json.loads(report.read_text(encoding="utf-8"))
    num_prompts = len(lines_of(HELD_OUT))
    print("\n| | answers that loop | 95% interval |\n| --- | --- | --- |")
    for name, share in zip(("before", "after"), loop_rates(found), strict=True):
        low, high = wilson(share, num_prompts)
        print(f"| {name} | {share:.1%} | {low:.1%} to {high:.1%} |")

    print(
        "\n| held-out text | texts | before | after | change | 95% interval | perplexity before"
        " | after |\n| --- |" + " --- |" * 7
    )
    given: dict[str, str] = {}
    for row in lines_of(held_out):
        given.setdefault(row["prompt"], row["text"])  # the first model's
    held = {
        "answers: first sentence": [
            (encode(f"{bos}{prompt}\n"), encode(first_sentence(answer)))
            for prompt, answer in given.items()
        ]
    }
    for name, some in texts.items():
        held[name] = [(encode(bos), encode(text)) for text in some[REPLAYED:]]
    for name, encoded in held.items():
        show_log_probs(name, log_probs(former, encoded), log_probs(model, encoded))


def first_sentence(answer: str) -> str:
    """Return the first sentence of an answer: behind it, the demo model begins again."""
    return re.split(r"(?<=[.!?。！？])", answer, maxsplit=1)[0]


def loop_rates(report: Row) -> list[float]:
    return [model["loop_rate"] for model in report["models"]]


if __name__ == "__main__":
    main()
