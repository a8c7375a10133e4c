"""Compare what TRL's n-gram reward and ours punish, on legitimate and on looping completions.

    make test-trl                                              # once: builds the environment with TRL
    .venv-trl/bin/python benchmarks/rewards.py --legit answers/*.jsonl --loops loops/*.jsonl

Inputs are lines of {"text"} and, where known, {"prompt"}, as those of `calibrate.py`; without files, the texts of
`filter_texts.jsonl`. Each file contributes equally many texts, `--sample` in all, chosen by a seed. TRL's reward counts the 3-grams
of the tokens of `--tokenizer`; both have a maximum penalty of -1.
"""

import argparse
import json
import random
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from transformers import AutoTokenizer
from trl.rewards import get_repetition_penalty_reward

from dedup.training import RepetitionReward
from dedup_server.engines.local.engine import DEMO_MODEL

HERE = Path(__file__).parent
CLEAR = -0.1
CAUGHT = 0.95  # share of loops

Row = dict[str, Any]


def rows_of(files: list[Path], size: int) -> list[Row]:
    """Return a sample with as many texts of each file as there are, up to equal shares."""
    rng = random.Random(0)
    left = {file: [json.loads(line) for line in file.open(encoding="utf-8")] for file in files}
    for rows in left.values():
        rng.shuffle(rows)
    taken: list[Row] = []
    while len(taken) < size and any(left.values()):
        for rows in left.values():
            if rows and len(taken) < size:
                taken.append(rows.pop())
    return taken


def own_rows() -> tuple[list[Row], list[Row]]:
    """Return the legitimate and the looping texts of `filter_texts.jsonl`."""
    found: dict[str, list[Row]] = {"legit": [], "loop": [], "repeat": []}
    for line in (HERE / "filter_texts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = "".join(
            part.replace("{i}", str(number))
            for part, times in row["parts"]
            for number in range(1, times + 1)
        )
        found[row["kind"]].append({"text": text})
    return found["legit"], found["loop"]


def cells(rewards: list[float]) -> str:
    punished = sum(reward < 0 for reward in rewards) / len(rewards)
    clearly = sum(reward < CLEAR for reward in rewards) / len(rewards)
    return f"{punished:.1%} | {clearly:.1%} | {fmean(rewards):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--legit", type=Path, nargs="+", default=[], help="files")
    parser.add_argument("--loops", type=Path, nargs="+", default=[], help="files")
    parser.add_argument("--sample", type=int, default=200, help="texts of each kind (default 200)")
    parser.add_argument("--tokenizer", default=str(DEMO_MODEL), help="a folder or a hub id")
    args = parser.parse_args()
    legit, loops = own_rows()
    if args.legit and args.loops:
        legit, loops = rows_of(args.legit, args.sample), rows_of(args.loops, args.sample)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    rewards = {
        "TRL: `get_repetition_penalty_reward()`": get_repetition_penalty_reward(),
        "ours: `RepetitionReward()`": RepetitionReward(),
    }
    print(f"{len(legit)} legitimate, {len(loops)} looping completions\n")
    kinds = " | ".join(
        f"{kind}: below 0 | below {CLEAR:g} | mean" for kind in ("legitimate", "looping")
    )
    print(f"| reward | {kinds} | legitimate punished as hard as {CAUGHT:.0%} of the loops |")
    print("| --- |" + " --- |" * 7)
    for name, reward in rewards.items():
        given = []
        for rows in (legit, loops):
            texts = [row["text"] for row in rows]
            given.append(
                reward(
                    prompts=[row.get("prompt") or "" for row in rows],
                    completions=texts,
                    completion_ids=tokenizer(texts, add_special_tokens=False, verbose=False)[
                        "input_ids"
                    ],
                )
            )
        # All but 5% of the loops are punished harder than this.
        least = quantiles(given[1], n=100, method="inclusive")[round(100 * CAUGHT) - 1]
        as_hard = sum(one < 0 and one <= least for one in given[0]) / len(given[0])
        print(f"| {name} | {cells(given[0])} | {cells(given[1])} | {as_hard:.1%} |")


if __name__ == "__main__":
    main()
