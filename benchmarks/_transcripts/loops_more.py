"""Loops that a harness has already noticed, and loops in another order of keys or calls."""

# ruff: noqa: E501  # results have long lines

from .registry import story
from .results import dumped, numbered, shell
from .story import Call, Story

README = """# skypipe

Downloads forecasts, converts them to Zarr and serves tiles.

## Install

    pip install skypipe[tiles]

## Configure

`skypipe.toml` has one table for each source:

    [source.icon]
    url = "https://opendata.example/icon-d2"
    levels = [850, 500]
    every = "3h"

`SKYPIPE_CACHE` names the folder for downloads; it is emptied when it holds more than 40 GB.

## Run

    skypipe sync --once
    skypipe serve --port 8080

The first run downloads about 6 GB. Progress goes to standard error, one line for each file."""


@story(
    "volatile-hermes-notes",
    "chat",
    "volatile",
    "NousResearch/hermes-agent#57303 NousResearch/hermes-agent#85482",
    cycle=1,
)
def hermes_notes(it: Story) -> None:
    it.system("You are Hermes. Finish the user's task with your tools.")
    it.user("How do I make skypipe keep more than 40 GB?")
    it.turn(
        Call(
            "search_files",
            {"pattern": "40 GB", "path": "."},
            dumped(
                {
                    "total_count": 1,
                    "matches": [
                        {
                            "path": "README.md",
                            "line": 21,
                            "content": "`SKYPIPE_CACHE` names the folder for downloads; it is emptied when it holds more than 40 GB.",
                        }
                    ],
                }
            ),
        )
    )
    content = dumped({"content": README, "total_lines": 30, "file_size": len(README)})
    ordinals = [
        "",
        "",
        "3rd",
        "4th",
        "5th",
        "6th",
        "7th",
        "8th",
        "9th",
        "10th",
        "11th",
        "12th",
        "13th",
    ]
    for ordinal in ordinals:
        with it.copy():
            if ordinal:
                it.reminder = f"[hermes note: this is the {ordinal} consecutive identical call to read_file with identical arguments returning the same result. Change the arguments, use another tool, or go on with what you have.]"
            it.turn(Call("read_file", {"path": "README.md"}, content))


@story("exact-dedup-stub", "chat", "exact", "NousResearch/hermes-agent#16382", cycle=1)
def dedup_stub(it: Story) -> None:
    it.system("You are Hermes, running on a local model.")
    it.user("Rename the option `every` to `interval` in the docs.")
    it.turn(
        Call("read_file", {"path": "README.md"}, dumped({"content": README, "total_lines": 30}))
    )
    stub = dumped(
        {
            "status": "unchanged",
            "message": "File unchanged since last read. The content from the earlier read_file result in this conversation is still current; refer to that instead of re-reading.",
            "path": "README.md",
            "dedup": True,
            "content_returned": False,
        }
    )
    for number in range(10):
        with it.copy():
            it.turn(
                Call("read_file", {"path": "README.md"}, stub),
                text="Let me read the file first." if number % 3 == 1 else "",
            )


@story(
    "exact-key-order",
    "responses",
    "exact",
    "openclaw/openclaw#93917 QwenLM/qwen-code#5019",
    cycle=1,
)
def key_order(it: Story) -> None:
    it.system("你是客服质检助手，逐条检查会话记录。")
    it.user("检查昨天的会话里有没有违规承诺")
    it.turn(
        Call(
            "list_sessions",
            {"date": "2026-06-02"},
            dumped({"total": 3, "sessions": ["S-9011", "S-9014", "S-9020"]}),
        )
    )
    arguments = [("session", "S-9011"), ("with_audio", False), ("page", 1), ("lang", "zh")]
    text = "\n".join(
        f"[{10 + n // 2:02d}:{(7 * n) % 60:02d}] {'客服' if n % 2 else '客户'}：{line}"
        for n, line in enumerate(
            [
                "你好，我买的空气净化器滤芯提示更换",
                "您好，请问购买时间是什么时候",
                "去年十一月",
                "滤芯寿命一般是六到八个月，建议您更换",
                "能不能免费送我一个",
                "目前没有这个活动呢，我帮您登记一下",
                "那什么时候有",
                "有活动会短信通知您",
                "好吧",
                "请问还有其他可以帮您的吗",
                "没有了",
                "感谢您的来电，祝您生活愉快",
            ]
        )
    )
    for number in range(9):
        with it.copy():
            turned = arguments[number % 4 :] + arguments[: number % 4]
            it.turn(Call("get_transcript", dict(turned), text))


@story(
    "batch-reordered", "messages", "batch", "can1357/oh-my-pi#10521 earendil-works/pi#9539", cycle=1
)
def reordered(it: Story) -> None:
    it.blocks = True
    it.system("You review infrastructure code. Use as many parallel calls as you can.")
    it.user("Do the three environments use the same instance types?")
    it.turn(
        Call("list_files", {"path": "env"}, "env/dev.tfvars\nenv/staging.tfvars\nenv/prod.tfvars")
    )
    files = [
        ("env/dev.tfvars", "t3.small"),
        ("env/staging.tfvars", "t3.medium"),
        ("env/prod.tfvars", "m6i.large"),
    ]
    for number in range(7):
        with it.copy():
            turned = files[number % 3 :] + files[: number % 3]
            it.turn(
                *[
                    Call(
                        "read_file",
                        {"path": path},
                        f'region        = "eu-central-1"\ninstance_type = "{kind}"\nmin_size      = 2\nmax_size      = {len(path)}\nspot          = {"false" if "prod" in path else "true"}\n',
                    )
                    for path, kind in turned
                ],
                text="Reading the three files.",
            )


@story(
    "failure-blocked-by-guard",
    "chat",
    "failure",
    "open-gsd/gsd-pi#1067 NousResearch/hermes-agent#57303",
    cycle=1,
)
def blocked_by_guard(it: Story) -> None:
    it.system("You are a coding agent. Tools: read, bash, edit.")
    it.user("Explain the plugin loader.")
    it.turn(
        Call(
            "bash",
            {"command": "ls src/plugins"},
            "discover.ts\nhooks.ts\nloader.ts\nmanifest.ts\nsandbox.ts",
        )
    )
    for path in (
        "src/plugins/loader.ts",
        "src/plugins/manifest.ts",
        "src/plugins/loader.ts",
        "src/plugins/discover.ts",
        "src/plugins/hooks.ts",
        "src/plugins/loader.ts",
        "src/plugins/sandbox.ts",
        "src/plugins/manifest.ts",
    ):
        with it.copy():
            it.turn(
                Call(
                    "read",
                    {"path": path},
                    "Tool loop detected (repeated tool): read was blocked for the rest of this turn. Do not retry it; answer the user in text.",
                )
            )


@story(
    "cycle2-write-and-verify",
    "responses",
    "cycle2",
    "agentscope-ai/QwenPaw#6116 anthropics/claude-code#10319",
    cycle=2,
)
def write_and_verify(it: Story) -> None:
    it.system("You are an agent with a shell. The result of each call is JSON.")
    it.user("Put our VAT id DE811907980 into the footer of the invoice template.")
    it.turn(
        Call(
            "shell",
            {"command": ["bash", "-lc", "grep -n footer templates/invoice.html"]},
            shell('88:  <div class="footer">\n91:  </div>\n'),
        )
    )
    for _ in range(8):
        with it.copy():
            it.turn(
                Call(
                    "shell",
                    {
                        "command": [
                            "bash",
                            "-lc",
                            "sed -i 's#VAT: #VAT: DE811907980#' templates/invoice.html",
                        ]
                    },
                    shell(""),
                )
            )
            it.turn(
                Call(
                    "shell",
                    {"command": ["bash", "-lc", "sed -n '86,92p' templates/invoice.html"]},
                    shell(
                        '  </table>\n\n  <div class="footer">\n    <span>Brightwater GmbH, Kanalstr. 14, 20095 Hamburg</span>\n    <span>USt-IdNr.: </span>\n  </div>\n</body>\n'
                    ),
                )
            )


@story(
    "exact-screenshot-popup",
    "messages",
    "exact",
    "browser-use/browser-use#554 Integration-Automation/AutoControlGUI#254",
    cycle=1,
)
def screenshot_popup(it: Story) -> None:
    it.system(
        "You operate a desktop by screenshots. Coordinates are pixels of a 1280 x 800 screen."
    )
    it.user("Export the open drawing as PDF to the desktop.")
    png = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAYAAADED76LAAAAEklEQVR42mNk+M9QzzCKRgAAXnQEAaVTxMYAAAAASUVORK5CYII="
    it.turn(
        Call("computer", {"action": "screenshot"}, "Screenshot taken.", image=png),
        text="I'll look at the screen.",
    )
    it.turn(
        Call(
            "computer",
            {"action": "key", "text": "ctrl+shift+e"},
            "Pressed ctrl+shift+e.",
            image=png,
        )
    )
    for number in range(9):
        with it.copy():
            it.turn(
                Call(
                    "computer",
                    {"action": "left_click", "coordinate": [742, 518]},
                    "Clicked at (742, 518).",
                    image=png,
                ),
                think="The export dialog is open. The button Export is at the bottom right, I click it."
                if number % 2 == 0
                else "",
            )


STORE = """from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Basket:
    lines: dict[str, int] = field(default_factory=dict)

    def add(self, sku: str, quantity: int = 1) -> None:
        self.lines[sku] = self.lines.get(sku, 0) + quantity

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self.lines.items())"""


@story(
    "near-open-file-thoughts",
    "responses",
    "near",
    "defilantech/LLMKube#544 Lexus2016/hermes-agent-evolution#1092",
    cycle=1,
)
def read_with_reasons(it: Story) -> None:
    it.system(
        "You are an autonomous developer. Each tool takes `thought`, your reason in a sentence."
    )
    it.user("Baskets must not hold more than 99 of an article.")
    it.turn(Call("find", {"thought": "Locate the class", "name": "basket*"}, "shop/basket.py"))
    for thought in (
        "Understand how lines are stored",
        "Look at add before I change it",
        "Check where the limit belongs",
        "See the current implementation",
        "Confirm the signature of add",
        "Make sure that I edit the right method",
        "Re-check the class before editing",
        "Look at how quantities are summed",
        "Verify nothing else caps the quantity",
    ):
        with it.copy():
            it.turn(
                Call("open_file", {"thought": thought, "path": "shop/basket.py"}, numbered(STORE))
            )
