"""Build or check the transcripts of agents: loops, and work that only looks like one.

    python benchmarks/agent_transcripts.py                 # writes agent_transcripts.jsonl
    python benchmarks/agent_transcripts.py --check FILE    # reports what is malformed in files of the same form

Each transcript follows the structure of a public report (`source`); the words are ours. A line has `id`, `api` (`chat`,
`messages` or `responses`), `messages` or `input` as that API's request has them (and `system` or `instructions`), `label`,
`kind`, and for a loop `cycle` (turns a copy has), `from` (index of the first message of the loop) and `fourth` (index just
behind its fourth copy). Of a loop that the agent got out of, which is legitimate, `ended` is the index behind its last message:
only what comes later is judged.
"""

import argparse
import importlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from _transcripts.checks import problems
from _transcripts.registry import STORIES

HERE: Final = Path(__file__).parent
FILE: Final = HERE / "agent_transcripts.jsonl"


def built() -> list[dict[str, Any]]:
    """Return the lines of all stories, in the order of the modules and of the stories in them."""
    for path in sorted((HERE / "_transcripts").glob("*.py")):
        if path.name.startswith(("loops_", "legit_")):
            importlib.import_module(f"_transcripts.{path.stem}")
    return [build().line() for build in STORIES]


def read(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the lines of transcript files."""
    lines: list[dict[str, Any]] = []
    for path in files:
        with path.open(encoding="utf-8") as file:
            lines += [json.loads(line) for line in file]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", type=Path, nargs="+", metavar="FILE")
    args = parser.parse_args()
    if args.check:
        lines = read(args.check)
    else:
        lines = built()
        with FILE.open("w", encoding="utf-8") as output:
            output.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    wrong = [f"{line['id']}: {problem}" for line in lines for problem in problems(line)]
    names = Counter(line["id"] for line in lines)
    wrong += [
        f"{name}: {count} transcripts of this id" for name, count in names.items() if count > 1
    ]
    for key in ("label", "kind", "api"):
        print(key, dict(Counter(line[key] for line in lines)))
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
