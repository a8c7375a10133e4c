"""Legitimate repetition: many items, many places, many tries."""

# ruff: noqa: E501  # results have long lines

from .registry import story
from .results import dumped, executed, numbered
from .story import Call, Story


@story(
    "exploration-twenty-reads",
    "messages",
    "exploration",
    "open-gsd/gsd-pi#1067 QwenLM/qwen-code#3236",
)
def twenty_reads(it: Story) -> None:
    it.system("You are Claude Code, Anthropic's official CLI for Claude.")
    it.user(
        "How does a request travel through this service, from the socket to the database? Read whatever you need."
    )
    it.turn(
        Call(
            "Glob",
            {"pattern": "src/**/*.py"},
            "\n".join(
                f"/srv/app/src/{name}.py"
                for name in "main server router limits auth context handlers/order handlers/cart handlers/user handlers/health repo/base repo/order repo/cart repo/user db/pool db/migrate models/order models/cart models/user".split()
            ),
        )
    )
    bodies = {
        "main": "import asyncio\n\nfrom .server import Server\n\nasyncio.run(Server.from_env().serve())",
        "server": "class Server:\n    async def serve(self) -> None:\n        async with self.pool:\n            await asyncio.start_server(self.accept, self.host, self.port)\n\n    async def accept(self, reader, writer) -> None:\n        await Router(self.pool).dispatch(reader, writer)",
        "router": "ROUTES = {('GET', '/orders'): orders.index, ('POST', '/orders'): orders.create}\n\nclass Router:\n    async def dispatch(self, reader, writer):\n        request = await parse(reader)\n        async with limit(request.peer):\n            handler = ROUTES.get((request.method, request.path), missing)\n            await handler(Context(request, self.pool), writer)",
        "limits": "@asynccontextmanager\nasync def limit(peer: str):\n    bucket = BUCKETS.setdefault(peer, Bucket(rate=20, burst=40))\n    await bucket.take()\n    yield",
        "auth": "def authenticated(handler):\n    @wraps(handler)\n    async def wrapper(context, writer):\n        token = context.request.headers.get('authorization', '')\n        context.user = await verify(token)\n        return await handler(context, writer)\n    return wrapper",
        "context": "@dataclass\nclass Context:\n    request: Request\n    pool: Pool\n    user: User | None = None",
    }
    rest = "handlers/order handlers/cart handlers/user handlers/health repo/base repo/order repo/cart repo/user db/pool db/migrate models/order models/cart models/user".split()
    for name in rest:
        part, _, noun = name.partition("/")
        bodies[name] = (
            f"from ..{part} import base\n\n\nclass {noun.title()}{part.title()}(base.{part.title()}):\n    table = '{noun}s'\n\n    async def find(self, id: int):\n        return await self.fetch('SELECT * FROM {noun}s WHERE id = $1', id)"
        )
    for number, (name, body) in enumerate(bodies.items()):
        it.turn(
            Call("Read", {"file_path": f"/srv/app/src/{name}.py"}, numbered(body)),
            text="Next, the repositories." if number == 10 else "",
        )
    it.say(
        "A connection is accepted in `server.py`, parsed and routed in `router.py` behind a token bucket, ..."
    )


def solar_page(state: str, rule: str, number: int) -> str:
    """Return a page on the duty to install solar panels."""
    share = 30 + number * 2
    return f"""# Solarpflicht in {state}

Stand: September 2026

Startseite > Ratgeber > Photovoltaik > Solarpflicht > {state}

## Seit wann gilt die Pflicht?

In {state} gilt: {rule}. Maßgeblich ist der Tag, an dem der Bauantrag oder die Bauanzeige eingeht. Wer vorher
eingereicht hat, baut nach altem Recht, auch wenn die Genehmigung später kommt.

## Wie groß muss die Anlage sein?

Mindestens {share} Prozent der geeigneten Dachfläche sind zu belegen. Als geeignet gilt eine Fläche ab {20 + number}
Quadratmetern, die weder nach Norden zeigt noch dauerhaft verschattet ist. Eine Solarthermieanlage zählt mit.

## Ausnahmen

- Denkmalschutz oder ein Bebauungsplan, der Anlagen ausschließt
- unbillige Härte: wenn sich die Anlage in {18 + number % 5} Jahren nicht rechnet
- Gründach, soweit es die Fläche braucht

## Nachweis

Die Bestätigung aus dem Marktstammdatenregister geht innerhalb von zwölf Monaten an die untere Bauaufsicht. Verstöße
kosten bis zu {5 + number}.000 Euro.

## Häufige Fragen

**Gilt die Pflicht auch bei einer Sanierung?** In {state} {"ja, wenn die Dachhaut vollständig erneuert wird" if number % 2 else "bisher nicht"}.
**Darf ich die Fläche verpachten?** Ja, die Pflicht erfüllt auch, wer das Dach einem Dritten überlässt.
"""


@story("exploration-web-research", "chat", "exploration", "openai/openai-agents-js#512")
def web_research(it: Story) -> None:
    it.system("You are a research assistant. Search, open pages, and cite.")
    it.user("Which German states already require solar panels on new roofs, and since when?")
    states = {
        "Baden-Württemberg": "1 May 2022 for homes",
        "Bayern": "1 January 2025 as a should-rule for homes",
        "Berlin": "1 January 2023",
        "Hamburg": "1 January 2023",
        "Niedersachsen": "1 January 2025",
        "Nordrhein-Westfalen": "1 January 2025 for homes",
        "Rheinland-Pfalz": "1 January 2024, solar-ready",
        "Schleswig-Holstein": "29 March 2025",
        "Bremen": "1 July 2025",
        "Hessen": "state-owned buildings and large car parks only",
    }
    for number, (state, rule) in enumerate(states.items()):
        it.turn(
            Call(
                "web_search",
                {"query": f"Solarpflicht {state} Neubau Wohngebäude seit wann"},
                dumped(
                    [
                        {
                            "title": f"Solarpflicht in {state}: das gilt",
                            "url": f"https://energie.example/{number}",
                            "snippet": f"In {state}: {rule}. Ausnahmen bei Härtefällen und ungeeigneten Dächern.",
                        },
                        {
                            "title": f"{state} PV-Pflicht Überblick",
                            "url": f"https://bau.example/pv/{number}",
                            "snippet": "Überblick der Regeln nach Gebäudeart.",
                        },
                    ]
                ),
            )
        )
        if number % 3 == 0:
            it.turn(
                Call(
                    "fetch",
                    {"url": f"https://energie.example/{number}"},
                    solar_page(state, rule, number),
                )
            )
    it.say(
        "Nine states have a duty for new homes or prepare roofs for it; here is the table with sources. ..."
    )


@story("exploration-grep-variants", "responses", "exploration", "makecindy/cindy#2721")
def grep_variants(it: Story) -> None:
    it.system("You are Codex, a coding agent running in the Codex CLI on a user's computer.")
    it.user("where do we set the cache ttl? I swear it was 300 somewhere")
    searches = [
        (
            "rg -n '300' src | head",
            "src/ui/anim.ts:8:  duration: 300,\nsrc/http/retry.ts:12:const STATUS = [300, 301, 308]\n",
        ),
        ("rg -n 'ttl' -i src | head", ""),
        ("rg -n 'max-?age' -i src", ""),
        ("rg -n 'expire|expiry' -i src", ""),
        ("rg -n 'setex|EX:' src", ""),
        ("rg -n 'cache' -il src", "src/http/etag.ts\nsrc/data/memo.ts\n"),
        (
            "sed -n '1,40p' src/data/memo.ts",
            "export function memo<T>(load: () => Promise<T>, keep = minutes(5)) {\n  let value: Promise<T> | undefined\n  let until = 0\n  return () => {\n    if (Date.now() > until) {\n      value = load()\n      until = Date.now() + keep\n    }\n    return value!\n  }\n}\n",
        ),
        (
            "rg -n 'minutes = ' src",
            "src/data/time.ts:3:export const minutes = (n: number) => n * 60_000\n",
        ),
    ]
    for command, output in searches:
        it.turn(
            Call(
                "exec_command",
                {"cmd": command, "workdir": "/srv/web"},
                executed(output, code=int(not output), chunk=it.token(6).lower()),
            )
        )
    it.say(
        "It is `minutes(5)`, the default of `keep` in src/data/memo.ts, so 300 seconds without the number."
    )


def component_page(name: str, props: str) -> str:
    """Return a page of a component library's documentation."""
    rows = "\n".join(
        f"| {prop} | {'函数' if prop.startswith('on') else '值'} | {'是' if n == 0 else '否'} | 版本 {2 + n}.0 起支持 |"
        for n, prop in enumerate(prop.strip() for prop in props.split(","))
    )
    return f"""# {name}

{name} 是受控组件，状态放在父组件里；在表单中使用时由 Form 统一接管。

## 引入

```tsx
import {{ {name} }} from '@acme/ui'
import '@acme/ui/dist/{name.lower()}.css'
```

## 属性

| 属性 | 类型 | 必填 | 说明 |
| --- | --- | --- | --- |
{rows}

## 示例

```tsx
export function Demo() {{
  const [value, setValue] = useState()
  return <{name} size="middle" data-testid="{name.lower()}" />
}}
```

## 无障碍

{name} 支持键盘操作，焦点样式不要去掉；自定义渲染时请保留 aria 属性。

## 常见问题

- 样式没有生效：检查是否引入了 {name.lower()}.css。
- 受控与非受控混用会在控制台给出警告。
"""


@story("exploration-mcp-docs", "messages", "exploration", "nowireless4u/hpe-networking-mcp#489")
def mcp_docs(it: Story) -> None:
    it.system("你可以通过 MCP 查询组件库文档（list_components、get_component）。写代码前先看文档。")
    it.user("用我们的组件库写一个带筛选、分页和批量删除的用户列表页")
    it.turn(
        Call(
            "list_components",
            {},
            dumped(
                [
                    "Button",
                    "Table",
                    "Pagination",
                    "Select",
                    "Input",
                    "DatePicker",
                    "Modal",
                    "Popconfirm",
                    "Toast",
                    "Form",
                    "Space",
                    "Tag",
                ]
            ),
        )
    )
    props = {
        "Table": "columns, dataSource, rowKey, rowSelection, loading",
        "Pagination": "current, total, pageSize, onChange",
        "Select": "options, value, multiple, onChange",
        "Input": "value, placeholder, allowClear",
        "DatePicker": "range, value, format",
        "Popconfirm": "title, onConfirm, okText",
        "Toast": "success(text), error(text)",
        "Form": "layout, initialValues, onFinish",
        "Tag": "color, closable",
    }
    for name, text in props.items():
        it.turn(
            Call(
                "get_component",
                {"name": name},
                component_page(name, text),
            )
        )
    it.turn(
        Call(
            "write_file",
            {
                "path": "src/pages/Users.tsx",
                "content": "import { Table, Pagination, Select, Popconfirm, Toast } from '@acme/ui'\n\nexport default function Users() {\n  // ...\n}\n",
            },
            "已写入 src/pages/Users.tsx",
        )
    )


@story("batch-license-headers", "chat", "batch_of_items", "google-gemini/gemini-cli#20701")
def license_headers(it: Story) -> None:
    it.system("You are an interactive CLI agent for software engineering tasks.")
    it.user("Put the Apache header on every Go file that misses it.")
    names = "cmd/main.go cmd/serve.go cmd/check.go pkg/lease/lease.go pkg/lease/store.go pkg/lease/clock.go pkg/raft/node.go pkg/raft/log.go pkg/raft/vote.go pkg/raft/snapshot.go pkg/http/server.go pkg/http/metrics.go pkg/http/health.go pkg/config/config.go pkg/config/env.go pkg/disk/wal.go pkg/disk/segment.go pkg/disk/index.go internal/testutil/cluster.go internal/testutil/disk.go".split()
    it.turn(
        Call(
            "run_shell_command",
            {"command": "grep -L 'Licensed under' $(git ls-files '*.go')"},
            "\n".join(names),
        )
    )
    header = (
        "// Copyright 2026 The Lease Authors\n// Licensed under the Apache License, Version 2.0\n\n"
    )
    for name in names:
        package = name.split("/")[-2]
        package = "main" if package == "cmd" else package
        it.turn(
            Call(
                "replace",
                {
                    "file_path": f"/repo/{name}",
                    "old_string": f"package {package}\n",
                    "new_string": f"{header}package {package}\n",
                },
                f"Successfully modified file: /repo/{name} (1 replacements).",
            )
        )
    it.turn(
        Call(
            "run_shell_command",
            {"command": "grep -L 'Licensed under' $(git ls-files '*.go') | wc -l"},
            "0",
        )
    )


@story("batch-move-components", "responses", "batch_of_items", "google-gemini/gemini-cli#5873")
def move_components(it: Story) -> None:
    it.system("You are a coding agent. Move files with git and keep imports working.")
    it.user("Move all dialogs from src/components to src/dialogs and update the imports.")
    for name in "Confirm Rename Share Invite Export Import Crop Filters Shortcuts About".split():
        users = f"src/views/{name}View.tsx:4:import {{ {name}Dialog }} from '../components/{name}Dialog'\nsrc/views/Home.tsx:{3 + len(name)}:import {{ {name}Dialog }} from '../components/{name}Dialog'"
        it.turn(Call("search", {"pattern": f"components/{name}Dialog"}, users))
        it.turn(
            Call(
                "shell",
                {"command": f"git mv src/components/{name}Dialog.tsx src/dialogs/{name}Dialog.tsx"},
                "",
            )
        )
        it.turn(
            Call(
                "shell",
                {
                    "command": f"sed -i 's#components/{name}Dialog#dialogs/{name}Dialog#' src/views/{name}View.tsx src/views/Home.tsx"
                },
                "",
            )
        )
    it.turn(Call("shell", {"command": "npx tsc --noEmit"}, ""))
    it.say("Ten dialogs moved; the project type-checks.")


@story("batch-support-replies", "messages", "batch_of_items", "openclaw/openclaw#89090")
def support_replies(it: Story) -> None:
    it.system("Du beantwortest Kundenmails eines Fahrradladens. Sende nichts doppelt.")
    it.user("Schick allen, deren Rad fertig ist, die Abholnachricht.")
    people = [
        ("Amir Celik", "Gudereit LC-30"),
        ("Birte Voss", "Koga F3"),
        ("Claus Wendt", "Riese Roadster"),
        ("Dörte Haack", "Brompton C"),
        ("Emil Quast", "Cube Kathmandu"),
        ("Fenja Lüders", "Diamant 247"),
        ("Gero Thiel", "Stevens Galant"),
        ("Hedda Brix", "Urban Arrow"),
    ]
    it.turn(
        Call(
            "list_jobs",
            {"status": "fertig"},
            dumped(
                [
                    {"job": 3300 + n, "kunde": name, "rad": bike}
                    for n, (name, bike) in enumerate(people)
                ]
            ),
        )
    )
    for number, (name, bike) in enumerate(people):
        it.turn(
            Call(
                "send_mail",
                {
                    "job": 3300 + number,
                    "betreff": "Ihr Rad ist fertig",
                    "text": f"Guten Tag {name}, Ihr {bike} steht zur Abholung bereit. Wir haben bis 18 Uhr geöffnet.",
                },
                dumped({"status": "sent", "messageId": f"<{it.token(12)}@rad.example>"}),
            )
        )
    it.say("Acht Nachrichten sind raus.")


@story("batch-translate-listing", "chat", "batch_of_items", "anomalyco/opencode#43800")
def translate_listing(it: Story) -> None:
    it.system("你负责把商品标题翻译成英文并回写，每次一个商品。")
    it.user("把待翻译的商品都处理掉")
    goods = {
        "不锈钢保温杯 500ml": "Stainless Steel Insulated Bottle, 500 ml",
        "竹制砧板 加厚": "Thick Bamboo Cutting Board",
        "儿童防晒帽 可折叠": "Foldable Kids' Sun Hat",
        "无线充电器 15W": "15 W Wireless Charger",
        "北欧风台灯": "Nordic Table Lamp",
        "硅胶折叠水壶": "Collapsible Silicone Kettle",
        "亚麻窗帘 定制": "Custom Linen Curtains",
        "猫抓板 瓦楞纸": "Corrugated Cat Scratcher",
        "蓝牙电子秤": "Bluetooth Kitchen Scale",
        "露营天幕 黑胶": "Blackout Camping Tarp",
        "保鲜盒三件套": "Set of Three Food Containers",
        "手冲咖啡壶": "Pour-over Coffee Pot",
    }
    for number, (title, english) in enumerate(goods.items()):
        it.turn(
            Call(
                "next_item",
                {},
                dumped(
                    {"id": 88100 + number, "title": title, "remaining": len(goods) - number - 1},
                    None,
                ),
            )
        )
        it.turn(
            Call(
                "save_title",
                {"id": 88100 + number, "lang": "en", "title": english},
                dumped({"ok": True}),
            )
        )
    it.turn(Call("next_item", {}, dumped({"id": None, "remaining": 0})))
    it.say("12 个商品都翻译好了。")


@story("trial-regex", "responses", "trial_and_error", "open-gsd/gsd-pi#1206")
def trial_regex(it: Story) -> None:
    it.system("You have a Python sandbox, `python`. State is kept between calls.")
    it.user(
        "I need a regex for our part numbers: AB-1234, AB-1234/5, ab-12-b. Not AB-12345 and not AB-. Test it on samples.txt."
    )
    tries = [
        (r"[A-Z]{2}-\d+", "matched 61 of 80, wrong: ['AB-12345', 'AB-99999']"),
        (r"[A-Z]{2}-\d{2,4}", "matched 61 of 80, wrong: ['AB-12345', 'AB-99999']"),
        (r"^[A-Z]{2}-\d{2,4}$", "matched 40 of 80, wrong: []"),
        (r"^[A-Za-z]{2}-\d{2,4}$", "matched 52 of 80, wrong: []"),
        (r"^[A-Za-z]{2}-\d{2,4}(/\d)?$", "matched 66 of 80, wrong: []"),
        (r"^[A-Za-z]{2}-\d{2,4}(/\d|-[a-z])?$", "matched 78 of 80, wrong: []"),
        (r"^[A-Za-z]{2}-\d{2,4}(/\d{1,2}|-[a-z])?$", "matched 80 of 80, wrong: []"),
    ]
    for pattern, output in tries:
        it.turn(
            Call(
                "python",
                {"code": f"import re\np = re.compile(r'{pattern}')\ncheck(p, 'samples.txt')"},
                output,
            )
        )
    it.say("`^[A-Za-z]{2}-\\d{2,4}(/\\d{1,2}|-[a-z])?$` matches all 80 and none of the bad ones.")


@story("trial-sql-slow-query", "chat", "trial_and_error", "timescale/pgai#926")
def trial_sql(it: Story) -> None:
    it.system("你是数据库调优助手，可以在只读副本上执行 EXPLAIN ANALYZE 和建临时索引。")
    it.user("这个报表查询要 40 秒，帮我优化：按门店统计近 30 天的复购客户数")
    base = "SELECT store_id, count(*) FROM (SELECT store_id, customer_id FROM orders WHERE paid_at > now() - interval '30 days' GROUP BY 1, 2 HAVING count(*) > 1) t GROUP BY 1"
    plans = [
        ("", "Seq Scan on orders", 40212.4),
        ("CREATE INDEX ON orders (paid_at)", "Bitmap Heap Scan on orders", 21830.9),
        ("CREATE INDEX ON orders (store_id, customer_id)", "Bitmap Heap Scan on orders", 21904.0),
        (
            "CREATE INDEX ON orders (paid_at) INCLUDE (store_id, customer_id)",
            "Index Only Scan using orders_paid_at_idx1",
            6120.5,
        ),
        (
            "SET work_mem = '256MB'",
            "Index Only Scan using orders_paid_at_idx1, HashAggregate",
            2240.1,
        ),
        (
            "VACUUM orders",
            "Index Only Scan using orders_paid_at_idx1, HashAggregate, Heap Fetches: 0",
            1288.7,
        ),
    ]
    for change, node, milliseconds in plans:
        if change:
            it.turn(Call("execute", {"sql": change}, change.split()[0]))
        it.turn(
            Call(
                "explain",
                {"sql": base},
                f"HashAggregate  (actual rows=412)\n  ->  {node}  (actual rows=1804433)\nPlanning Time: 0.4 ms\nExecution Time: {milliseconds} ms",
            )
        )
    it.say("从 40 秒降到 1.3 秒：覆盖索引 + work_mem 256MB + VACUUM。")


@story("trial-css-screenshot", "messages", "trial_and_error", "browser-use/browser-use#3979")
def trial_css(it: Story) -> None:
    it.system("You are a front-end agent. `screenshot` returns what a vision model sees.")
    it.user("The price badge overlaps the title on small screens. Fix it, check at 360 px.")
    tries = [
        ("padding-right: 2rem;", "The badge still covers the last word of the title."),
        ("padding-right: 4.5rem;", "The title wraps early; the badge touches it by a few pixels."),
        (
            "flex: 1 1 auto; min-width: 0;",
            "The badge is beside the title; long titles are cut off.",
        ),
        (
            "flex: 1 1 auto; min-width: 0; overflow-wrap: anywhere;",
            "Title and badge do not overlap; titles wrap to two lines.",
        ),
    ]
    previous = "padding-right: 0;"
    for css, seen in tries:
        it.turn(Call("edit_file", {"path": "src/card.css", "old": previous, "new": css}, "ok"))
        it.turn(Call("screenshot", {"url": "http://localhost:5173/list", "width": 360}, seen))
        previous = css
    it.say("Fixed: the title may shrink and wraps, the badge keeps its place.")


@story("trial-thermostat-pid", "responses", "trial_and_error", "google-gemini/gemini-cli#20701")
def trial_pid(it: Story) -> None:
    it.system(
        "Vous êtes un agent d'automatisation. L'outil `simulate` lance la simulation de la boucle de chauffage."
    )
    it.user(
        "Trouve des gains PID sans dépassement de plus de 0,3 °C et une montée en moins de 20 minutes."
    )
    for kp, ki, overshoot, rise in [
        (2.0, 0.1, 1.9, 11),
        (1.2, 0.1, 1.4, 14),
        (1.2, 0.03, 0.8, 15),
        (0.9, 0.03, 0.5, 18),
        (0.9, 0.01, 0.2, 24),
        (1.1, 0.01, 0.3, 20),
        (1.15, 0.012, 0.3, 19),
    ]:
        it.turn(
            Call(
                "simulate",
                {"kp": kp, "ki": ki, "kd": 0.4, "setpoint": 21.0},
                dumped({"overshoot_c": overshoot, "rise_min": rise, "steady_error_c": 0.05}),
            )
        )
    it.say("kp = 1,15, ki = 0,012, kd = 0,4 : dépassement 0,3 °C, montée en 19 minutes.")


@story(
    "editing-docstrings",
    "messages",
    "editing",
    "google-gemini/gemini-cli#20701 Classla/ClasslaV2#239",
)
def docstrings(it: Story) -> None:
    it.system("You are Claude Code.")
    it.user("Add a one-line docstring to every public function in geometry.py.")
    functions = {
        "area": "Return the area of a polygon.",
        "centroid": "Return the centroid of a polygon.",
        "convex_hull": "Return the convex hull, counter-clockwise.",
        "distance": "Return the distance of two points.",
        "contains": "Return whether a point lies inside.",
        "clip": "Clip a polygon to a rectangle.",
        "offset": "Offset a polygon by a distance.",
        "simplify": "Drop vertices that change nothing.",
        "triangulate": "Return the ears of a polygon.",
        "rotate": "Rotate about a point, in radians.",
        "scale": "Scale about a point.",
        "bounds": "Return the bounding box.",
    }
    it.turn(
        Call(
            "Read",
            {"file_path": "/repo/geometry.py"},
            numbered("\n\n".join(f"def {name}(polygon, *args):\n    ..." for name in functions)),
        )
    )
    for name, text in functions.items():
        it.turn(
            Call(
                "Edit",
                {
                    "file_path": "/repo/geometry.py",
                    "old_string": f"def {name}(polygon, *args):\n",
                    "new_string": f'def {name}(polygon, *args):\n    """{text}"""\n',
                },
                "The file /repo/geometry.py has been updated successfully.",
            )
        )
    it.turn(
        Call(
            "Bash",
            {
                "command": "python -m compileall -q geometry.py && ruff check --select D103 geometry.py",
                "description": "Check",
            },
            "All checks passed!",
        )
    )


@story("editing-slides", "chat", "editing", "Classla/ClasslaV2#239")
def slides(it: Story) -> None:
    it.system("你是课件助手。每次调用 update_block 修改一个块。")
    it.user("把第三课的讲义按新大纲重写，保持每一节的小标题")
    sections = [
        "导入：为什么需要循环",
        "for 循环的语法",
        "range 的三种写法",
        "while 循环",
        "break 与 continue",
        "嵌套循环",
        "常见错误",
        "练习题",
        "小结",
    ]
    it.turn(
        Call(
            "get_document",
            {"id": "lesson-3"},
            dumped(
                {
                    "id": "lesson-3",
                    "blocks": [{"block": n, "title": title} for n, title in enumerate(sections)],
                }
            ),
        )
    )
    for number, title in enumerate(sections):
        it.turn(
            Call(
                "update_block",
                {
                    "document": "lesson-3",
                    "block": number,
                    "markdown": f"## {title}\n\n本节用一个生活中的例子说明{title.split('：')[-1]}，然后给出三行代码，并让学生预测输出。",
                },
                dumped({"ok": True, "version": 41 + number}),
            )
        )
    it.say("九个小节都按新大纲改好了。")


@story("editing-same-block", "responses", "editing", "Classla/ClasslaV2#239")
def same_block(it: Story) -> None:
    it.system("You maintain a quiz in an editor. `edit_block` replaces text in one block.")
    it.user("Make the quiz harder step by step until the readability score is at least 11.")
    for number, grade in enumerate((6.2, 7.4, 8.1, 9.0, 9.9, 10.6, 11.3)):
        it.turn(
            Call(
                "edit_block",
                {
                    "id": "q-14",
                    "find": f"Question version {number}",
                    "replace": f"Question version {number + 1}",
                },
                "updated",
            )
        )
        it.turn(Call("readability", {"id": "q-14"}, dumped({"grade": grade})))
    it.say("The score is 11.3 now.")
