"""Do healed answers read well?

    python benchmarks/healing.py llama.cpp=live/smollm2-llamacpp-0-proxy.loops.jsonl ...   # of `make live`, or any
    python benchmarks/healing.py mine=loops.jsonl --blind 60   # DEDUP_INCIDENT_LOG; draws 60 seams for readers

Of answers in which a loop was found: loops left; answers that end as a sentence or a structure does; faults at the
seam and at the end, as `_seams.py` finds them; log-probability that SmolLM2 itself gives a token of what came behind
the loop, beside that of a token of answers that it sampled freely (`--sampled`, lines of `live.py`).
"""

import argparse
import json
import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from _cycles import onset_of
from _seams import end_faults, seam_faults
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

CONTEXT: Final = 2048  # tokens of the model that judges


@dataclass(frozen=True)
class Healed:
    """An answer that looped.

    Args:
        server: Where.
        prompt: The user's last message, or the text that was to be continued.
        before: What the reader had when the loop was found.
        after: What came behind it.
        looped: The loop.
        attempts: Calls that continued it.
    """

    server: str
    prompt: str
    before: str
    after: str
    looped: str
    attempts: int

    @property
    def text(self) -> str:
        return self.before + self.after


class Judge:
    """A model's own opinion of a text."""

    def __init__(self, path: str) -> None:
        folder, name = (
            (str(Path(path).parent), Path(path).name) if path.endswith(".gguf") else (path, None)
        )
        options = {"gguf_file": name} if name else {}
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)

    @torch.inference_mode()
    def logprob(self, prompt: str, before: str, after: str) -> float | None:
        """Return that of a token of `after`, on average; None if it has none."""
        messages = [{"role": "user", "content": prompt}]
        asked = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        start = len(self._ids(asked + before.rstrip()))
        ids = self._ids(asked + before.rstrip() + _joined(before, after))[:CONTEXT]
        if len(ids) <= start:
            return None
        rows = torch.tensor([ids])
        scores = self._model(rows).logits[0, start - 1 : -1].log_softmax(-1)
        return float(scores.gather(1, rows[0, start:, None]).mean())

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _joined(before: str, after: str) -> str:
    return before[len(before.rstrip()) :] + after


def loops_in(server: str, path: Path) -> list[Healed]:
    """Return the answers in an incident log that were continued, or that it was tried for."""
    found = []
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        request = row["request"]
        if not row["attempts"]:
            continue
        prompt = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
        one = Healed(server, prompt, row["kept"], row["continued"], row["looped"], row["attempts"])
        found.append(one)
    return found


def told(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "-"


def cells_of(found: list[Healed], judge: Judge) -> list[str]:
    """Return the row of a table."""
    went_on = [one for one in found if one.after.strip()]
    logprobs = []
    for one in tqdm(went_on, desc=found[0].server):
        value = judge.logprob(one.prompt, one.before, one.after) if one.prompt.isascii() else None
        logprobs += [] if value is None else [value]
    num = len(found)
    return [
        str(num),
        told(len(went_on), num),
        str(sum(onset_of(one.text) is not None for one in found)),
        told(sum(not end_faults(one.text) for one in found), num),
        told(sum(bool(seam_faults(one.before, one.after, one.looped)) for one in found), num),
        f"{statistics.fmean(logprobs):.2f}" if logprobs else "-",
        f"{statistics.fmean(one.attempts for one in found):.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--sampled", nargs="*", type=Path, default=[], help="unfiltered answers")
    parser.add_argument("--judge", default=".weights/smollm2.gguf", help="the model that judges")
    parser.add_argument(
        "--blind", type=int, default=0, metavar="N", help="draw N seams, to be read"
    )
    parser.add_argument("--out", type=Path, default=Path("seams.jsonl"))
    args = parser.parse_args()
    judge = Judge(args.judge)
    groups = [loops_in(name, Path(file)) for name, file in (log.split("=", 1) for log in args.logs)]
    everything = [one for found in groups for one in found]
    rows = [
        f"| {found[0].server} | {' | '.join(cells_of(found, judge))} |" for found in groups if found
    ]
    for one in everything:
        faults = seam_faults(one.before, one.after, one.looped) + end_faults(one.text)
        if faults:
            seam = f"{one.before[-60:]}<|>{one.after[:60]}"
            print(f"{one.server}: {'; '.join(faults)}: {seam!r} ... {one.text[-40:]!r}")
    print(
        "\n| server | loops | went on | loops left | end well | bad seams | log-probability | attempts |"
    )
    print("| --- |" + " --- |" * 7)
    print("\n".join(rows))
    values = []
    for path in args.sampled:
        for line in tqdm(path.read_text(encoding="utf-8").splitlines(), desc="sampled"):
            row = json.loads(line)
            value = judge.logprob(row["prompt"], "", row["text"])
            values += [] if value is None else [value]
    if values:
        mean = statistics.fmean(values)
        print(f"\nsampled freely: log-probability {mean:.2f} ({len(values)} answers)")
    if args.blind:
        drawn = [one for one in everything if one.after.strip()]
        drawn = random.Random(0).sample(drawn, min(args.blind, len(drawn)))
        with args.out.open("w", encoding="utf-8") as out:
            for number, one in enumerate(drawn):
                drawn_seam = {"number": number, "before": one.before[-300:]}
                drawn_seam |= {"after": one.after[:300], "end": one.text[-200:]}
                out.write(json.dumps(drawn_seam, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
