// All texts of the page, in both languages.

const WORDS = {
  tagline: ["Stops language models from repeating themselves", "让语言模型不再复读"],
  skip: ["Skip to the content", "跳到正文"],
  views: ["Views", "视图"],
  "tab.try": ["Try it", "试一试"],
  "tab.live": ["Live", "实时"],
  "tab.check": ["Check a text", "检查文本"],
  theme: ["Colours", "配色"],
  "theme.auto": ["Auto", "自动"],
  "theme.light": ["Light", "浅色"],
  "theme.dark": ["Dark", "深色"],
  language: ["中文", "English"],

  "try.lead": [
    "The same prompt twice: unfiltered, and through the filter.",
    "同一个问题问两遍：一遍是模型的原样回答，一遍经过过滤。",
  ],
  prompt: ["Prompt", "提示词"],
  examples: ["Examples", "示例"],
  model: ["Model", "模型"],
  "model.none": ["no model", "没有模型"],
  policy: ["Policy", "策略"],
  "policy.off": ["off: nothing", "off：什么也不做"],
  "policy.watch": ["watch: measures only", "watch：只测量"],
  "policy.loops": ["loops: cuts loops", "loops：只截断循环"],
  "policy.balanced": ["balanced: also repeated sentences", "balanced：还去掉重复的句子"],
  "policy.strict": ["strict: also near-duplicates", "strict：还去掉近似重复"],
  heal: ["Heal: continue differently after a loop", "修复：遇到循环后换个说法继续"],
  sampling: ["Sampling", "采样参数"],
  "sampling.hint": ["Empty fields are not sent.", "留空的参数不会发送。"],
  "more.sampling": ["More parameters", "更多参数"],
  key: ["API key", "API 密钥"],
  "key.hint": [
    "Only if the server requires one. Deleted when this tab is closed.",
    "服务器要求时才填。关闭标签页后即忘记。",
  ],
  ask: ["Ask", "提问"],
  stop: ["Stop", "停止"],
  "copy.curl": ["Copy as curl", "复制为 curl"],
  "copy.python": ["Copy as Python", "复制为 Python"],
  copied: ["Copied.", "已复制。"],
  "copy.failed": ["Copying is not allowed here; the text is selected.", "此处不允许复制；文本已选中。"],
  code: ["Code of this request", "这个请求的代码"],
  raw: ["Unfiltered", "模型原样"],
  filtered: ["Filtered", "经过过滤"],
  "raw.empty": ["The unfiltered completion appears here; what the filter removes is struck through.", "这里是模型自己的回答；会被过滤掉的部分加删除线。"],
  "filtered.empty": ["The filtered completion appears here.", "这里是读者得到的回答。"],
  "state.streaming": ["generating…", "正在回答…"],
  "state.done": ["done: {reason}", "完成：{reason}"],
  "state.cut": ["cut at a loop", "在循环处截断"],
  "state.healed": ["healed", "已修复"],
  "state.stopped": ["stopped", "已被你停止"],
  "state.failed": ["failed", "失败"],
  "fact.loop": ["Loop", "循环"],
  "fact.onset": ["Onset", "起点"],
  "fact.saved": ["Characters saved", "省下字符"],
  "fact.rep4": ["rep-4, raw → filtered", "rep-4，原样 → 过滤"],
  "fact.none": ["none", "无"],
  "fact.times": ["{kind}, every {period} characters", "{kind}，每 {period} 字符一次"],
  "fact.at": ["character {at}", "第 {at} 字符"],
  "kind.exact": ["exact", "逐字"],
  "kind.near": ["near-verbatim", "近似"],
  "kind.flood": ["flood", "刷屏"],
  facts: ["Results", "结果"],
  "done.status": ["Both completions are done.", "两个回答都已完成。"],
  reasoning: ["Reasoning", "思考"],

  "reason.loop": ["Removed: part of a loop that began at character {at}.", "已移除：循环的一部分，循环始于第 {at} 字符。"],
  "reason.repeat": ["Removed: this {kind} first occurs at character {at}.", "已移除：此{kind}首次出现在第 {at} 字符。"],
  "reason.earlier": ["Removed: this is in an earlier turn.", "已移除：之前的轮次说过。"],
  "reason.kept": ["Kept; first occurs at character {at}.", "保留，但第 {at} 字符处已说过。"],
  "unit.sentence": ["sentence", "句子"],
  "unit.line": ["line", "行"],
  "unit.item": ["list item", "列表项"],
  "unit.quote": ["quote", "引文"],
  "first.occurrence": ["First occurrence:", "首次出现："],
  "marks.hint": [
    "Tab into the marked text, then arrow keys move between repeats; Enter goes to the first occurrence.",
    "用 Tab 进入带标记的文本，方向键在重复处之间移动，回车跳到首次出现处。",
  ],

  "live.lead": ["Repetition over the last five minutes, live.", "最近五分钟的重复情况。"],
  "live.waiting": ["Waiting for a second scrape…", "等待第二次读数…"],
  "live.on": ["Live, every two seconds", "实时，每两秒更新"],
  "live.paused": ["Paused while hidden", "页面隐藏时暂停"],
  "live.gone": ["The server has not responded since {time}. Retrying…", "服务器自 {time} 起没有响应，正在重试…"],
  "live.quiet": ["Nothing in the last five minutes", "最近五分钟没有数据"],
  "live.table": ["The last five minutes, per model", "最近五分钟，按模型"],
  "live.start": ["since the server's start", "自服务器启动以来"],
  "live.all": ["all models", "全部模型"],
  "chart.ratio": ["Repetition ratio", "重复率"],
  "chart.ratio.hint": ["Repeated 4-grams in responses before filtering, mean", "过滤前回答中重复的 4-gram，平均"],
  "chart.loops": ["Loops per minute", "每分钟循环"],
  "chart.loops.hint": ["Detected in responses: cut, healed or flagged", "回答中发现的循环：截断、修复或标记"],
  "chart.removed": ["Removed share", "移除比例"],
  "chart.removed.hint": ["Characters removed, of all generated", "被移除的字符占全部生成字符"],
  "chart.overhead": ["Overhead p99", "开销 p99"],
  "chart.overhead.hint": ["Time spent filtering a response", "过滤一个回答所花的时间"],
  "chart.streams": ["Streams in progress", "进行中的流"],
  "chart.streams.hint": ["Responses in progress", "正在生成的回答"],
  "chart.requests": ["Requests per minute", "每分钟请求"],
  "chart.requests.hint": ["With any outcome", "不论结果"],
  agents: ["Agents in loops", "陷入循环的智能体"],
  "agents.hint": [
    "Answers of the last five minutes that made tool calls once more with nothing changed, by what was done at most.",
    "最近五分钟内再次进行同样工具调用、而结果没有变化的回答，按所采取的最高一级处理统计。",
  ],
  "agents.measured": ["Only measured", "仅记录"],
  "agents.nudged": ["Nudged", "已提示"],
  "agents.answered": ["Asked for an answer", "已要求作答"],
  "agents.stopped": ["Turn ended", "已结束本轮"],
  "agents.tokens": ["Tokens of repeated steps", "重复步骤的 token"],
  "agents.helped": ["Led out of the loop", "走出循环"],
  "agents.of": ["{part} of {all} ({share})", "{part} / {all}（{share}）"],
  "chart.label": ["{title}: now {value}; highest {most} in the last five minutes", "{title}：当前 {value}；最近五分钟最高 {most}"],
  "ago": ["{minutes} min ago", "{minutes} 分钟前"],
  now: ["now", "现在"],

  "check.lead": ["Paste a text to mark, count and plot its repeats.", "粘贴一段文本；重复之处会被标出、计量并画成图。"],
  text: ["Text", "文本"],
  check: ["Check", "检查"],
  checking: ["Checking…", "检查中…"],
  chars: ["{count} characters", "{count} 个字符"],
  "check.loop": ["Loop: {what}, from character {at}.", "循环：{what}，始于第 {at} 字符。"],
  "check.noloop": ["No loop.", "没有循环。"],
  "check.sum": [
    "{groups} groups of repeats in {sentences} sentences; the filter would remove {removed} characters ({share}).",
    "{sentences} 个句子中有 {groups} 组重复；过滤器会移除 {removed} 个字符（{share}）。",
  ],
  "check.clean": ["Nothing repeats in {sentences} sentences.", "没有重复：{sentences} 个句子，句句都新。"],
  "marked.text": ["The text, marked", "标记后的文本"],
  plot: ["Self-similarity", "自相似图"],
  "plot.hint": [
    "Both axes are the text, from beginning to end. A dot marks two equal places. Lines beside the diagonal are copies; a filled block is a loop.",
    "两轴都是文本，从头到尾。一个点：此处与彼处所说相同。对角线旁的平行线是复述；填满的方块是循环。",
  ],
  "plot.sentences": ["By sentence", "按句子"],
  "plot.words": ["By words", "按词"],
  "plot.level": ["Level of the plot", "图的粒度"],
  "plot.label": [
    "Self-similarity of {count} {unit}: {share} of all pairs off the diagonal are equal.",
    "{count} {unit}的自相似图：对角线以外有 {share} 的配对相同。",
  ],
  "plot.unit.sentences": ["sentences", "个句子"],
  "plot.unit.words": ["words", "个词"],
  metrics: ["Metrics", "指标"],
  "metric": ["Metric", "指标"],
  value: ["Value", "值"],
  "m.units": ["Words; Chinese and Japanese characters count one each.", "词数；每个汉字或假名算一个。"],
  "m.rep_1": ["Share of words that occurred before.", "出现过的词所占比例。"],
  "m.rep_2": ["Share of word pairs that occurred before.", "出现过的二元组所占比例。"],
  "m.rep_3": ["Share of 3-grams that occurred before.", "出现过的三元组所占比例。"],
  "m.rep_4": ["Share of 4-grams that occurred before; good prose stays below 0.1 or so.", "出现过的四元组所占比例；好文章一般低于 0.1 左右。"],
  "m.rep_w": ["Share of words that occur among the 16 words before them.", "在前 16 个词中已出现的词所占比例。"],
  "m.distinct_1": ["Different words over all words.", "不同词数与总词数之比。"],
  "m.distinct_2": ["Different word pairs over all pairs.", "不同二元组数与总数之比。"],
  "m.diversity": ["(1 − rep-2)(1 − rep-3)(1 − rep-4): 1 is no repetition.", "(1 − rep-2)(1 − rep-3)(1 − rep-4)：1 表示毫无重复。"],
  "m.duplicate_sentences": ["Share of sentences that occurred before.", "与前文相同的句子所占比例。"],
  "m.duplicate_lines": ["Share of lines that occurred before.", "与前文相同的行所占比例。"],
  "m.duplicate_paragraphs": ["Share of paragraphs that occurred before.", "与前文相同的段落所占比例。"],
  "m.top_2gram_chars": ["Characters that the most frequent pair of words covers.", "最常见二元组覆盖的字符比例。"],
  "m.top_3gram_chars": ["Characters that the most frequent 3-gram covers.", "最常见三元组覆盖的字符比例。"],
  "m.top_4gram_chars": ["Characters that the most frequent 4-gram covers.", "最常见四元组覆盖的字符比例。"],
  "m.duplicate_5gram_chars": ["Characters in 5-grams that occurred before.", "出现过的五元组覆盖的字符比例。"],
  "m.duplicate_10gram_chars": ["Characters in 10-grams that occurred before.", "出现过的十元组覆盖的字符比例。"],
  "m.compression_ratio": ["Bytes over compressed bytes; Whisper treats a ratio above 2.4 as a failure.", "原字节数与压缩后之比；高于 2.4 时 Whisper 视为失败。"],

  "error.network": ["The server does not respond.", "服务器没有响应。"],
  "error.status": ["The server returned {status}.", "服务器返回 {status}。"],
  "error.broken": ["The response ended early.", "回答在结束前中断。"],
  footer: [
    "Offsets count characters. JSON endpoints:",
    "位置按字符计。程序在此得到 JSON：",
  ],
};

let language = document.documentElement.lang.startsWith("zh") ? "zh" : "en";
const listeners = [];

export const currentLanguage = () => language;

export function t(key, values = {}) {
  const text = WORDS[key][language === "zh" ? 1 : 0];
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

export function number(value, digits = 0) {
  return value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export const percent = (share) => `${number(share * 100, share > 0 && share < 0.1 ? 1 : 0)}%`;

// Register what redraws a view when the language changes.
export const onLanguage = (listener) => listeners.push(listener);

export function speak(next) {
  language = next;
  document.documentElement.lang = next;
  localStorage.setItem("language", next);
  translate();
  for (const listener of listeners) listener();
}

// Translate the static page: data-t names an element's text, data-t-label its accessible name.
export function translate() {
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
}
