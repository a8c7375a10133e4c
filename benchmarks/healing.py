"""Do healed answers read well?

    make live                                                     # first: the answers
    .venv/bin/python benchmarks/healing.py live/*_healed.jsonl    # a table; --blind 60 writes seams to be read

Of answers in which a loop was healed: loops left; answers that end as a sentence or a structure does; faults at the
seam and at the end, as `_seams.py` finds them; log-probability that SmolLM2 itself gives a token of what came behind
the loop, beside what it gives a token of answers that it sampled freely at the same length (`--sampled`, files of
unfiltered answers at temperature 0.8); and tokens generated beyond those of the answer.

What the reader had at the loop is the answer to the same request with healing off (`*_cut.jsonl` beside the file).
"""

import argparse
import json
import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _cycles import onset_of
from _seams import end_faults, seam_faults
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

Row = dict[str, Any]
CONTEXT = 2048


@dataclass(frozen=True)
class Healed:
    """An answer that was healed.

    Args:
        row: The line of `live.py`.
        before: What the reader had when the loop was found.
        after: What came behind it.
        looped: What came there without a filter.
    """

    row: Row
    before: str
    after: str
    looped: str


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


def rows_in(path: Path) -> dict[str, Row]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {row["id"]: row for row in map(json.loads, lines)}


def healed_in(path: Path) -> list[Healed]:
    """Return the answers of a file that were healed, or in which that was tried."""
    cut, off = (
        rows_in(path.with_name(path.name.replace("healed", mode))) for mode in ("cut", "off")
    )
    found = []
    for name, row in rows_in(path).items():
        before = cut.get(name)
        if before is None or before["stop_reason"] != "repetition_detected":
            continue
        if not row["text"].startswith(before["text"]):
            continue  # the server did not say the same again
        size = len(before["text"])
        text = off[name]["text"] if name in off else ""
        looped = text[size : size + 200] if text.startswith(before["text"]) else ""
        found.append(Healed(row, before["text"], row["text"][size:], looped))
    return found


def told(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "-"


def cells_of(found: list[Healed], judge: Judge, bar: "tqdm[Any]") -> list[str]:
    """Return the row of a table."""
    logprobs, extra = [], []
    for one in found:
        bar.update()
        if one.row["model"] == "smollm2" and one.row["language"] == "en" and one.after.strip():
            value = judge.logprob(one.row["prompt"], one.before, one.after)
            logprobs += [] if value is None else [value]
        extra.append(one.row["generated"] - len(judge._ids(one.row["text"])))
    num = len(found)
    seams = [one for one in found if seam_faults(one.before, one.after, one.looped)]
    ends = [one for one in found if end_faults(one.row["text"])]
    went_on = sum(bool(one.after.strip()) for one in found)
    return [
        str(num),
        told(went_on, num),
        str(sum(onset_of(one.row["text"]) is not None for one in found)),
        told(num - len(ends), num),
        told(len(seams), went_on),
        f"{statistics.fmean(logprobs):.2f}" if logprobs else "-",
        f"{statistics.fmean(extra):.0f}" if extra else "-",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--sampled", nargs="*", type=Path, default=[], help="unfiltered answers")
    parser.add_argument("--judge", default=".weights/smollm2.gguf", help="the model that judges")
    parser.add_argument(
        "--blind", type=int, default=0, metavar="N", help="write N seams to be read"
    )
    parser.add_argument("--out", type=Path, default=Path("live/seams.jsonl"))
    args = parser.parse_args()
    judge = Judge(args.judge)
    groups: dict[str, list[Healed]] = {}
    for path in args.files:
        server, language, *_ = path.stem.rsplit("_", 3)
        groups.setdefault(f"{server} | {language}", []).extend(healed_in(path))
    everything = [one for found in groups.values() for one in found]
    print(
        "| server | prompts | loops | went on | loops left | end well | bad seams | log-probability | extra tokens |"
    )
    print("| --- |" + " --- |" * 8)
    with tqdm(total=len(everything)) as bar:
        for name, found in groups.items():
            print(f"| {name} | {' | '.join(cells_of(found, judge, bar))} |")
    for one in everything:
        faults = seam_faults(one.before, one.after, one.looped) + end_faults(one.row["text"])
        if faults:
            seam = one.before[-60:] + "<|>" + one.after[:60]
            print(
                f"{one.row['server']} {one.row['id']}: {'; '.join(faults)}: {seam!r} ... {one.row['text'][-40:]!r}"
            )
    values = []
    for path in args.sampled:
        for row in tqdm(rows_in(path).values(), desc="sampled"):
            value = judge.logprob(row["prompt"], "", row["text"])
            values += [] if value is None else [value]
    if values:
        print(
            f"\nsampled freely: log-probability {statistics.fmean(values):.2f} ({len(values)} answers)"
        )
    if args.blind:
        drawn = [one for one in everything if one.after.strip()]
        drawn = random.Random(0).sample(drawn, min(args.blind, len(drawn)))
        with args.out.open("w", encoding="utf-8") as out:
            for number, one in enumerate(drawn):
                seam = {"number": number, "before": one.before[-300:], "after": one.after[:300]}
                seam["end"] = one.row["text"][-200:]
                out.write(json.dumps(seam, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
