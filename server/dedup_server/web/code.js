// A request as a command and as a program. Both read the key from the environment.

// Return ASCII: control characters and direction marks would disguise code.
const ascii = (value, indent) => JSON.stringify(value, null, indent)
  .replace(/[\u007f-\uffff]/g, (char) => (readable(char) ? char : `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`));

const readable = (char) => /[\p{L}\p{N}\p{P}\p{S}\p{M}]/u.test(char) && !/\p{C}/u.test(char);

export function curl(body) {
  const data = ascii(body, 2).replaceAll("'", "'\\''");
  return [
    `curl ${location.origin}/v1/chat/completions \\`,
    "  -H 'Content-Type: application/json' \\",
    "  -H \"Authorization: Bearer ${DEDUP_API_KEY:-none}\" \\",
    `  -d '${data}'`,
  ].join("\n");
}

export function python(body) {
  const { model, messages, stream, repetition, ...sampling } = body;
  const known = ["temperature", "top_p", "max_tokens", "seed", "presence_penalty", "frequency_penalty"];
  const plain = Object.entries(sampling).filter(([name]) => known.includes(name));
  const extra = { ...Object.fromEntries(Object.entries(sampling).filter(([name]) => !known.includes(name))), repetition };
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${location.origin}/v1", api_key=os.environ.get("DEDUP_API_KEY", "none"))`,
    "stream = client.chat.completions.create(",
    `    model=${literal(model)},`,
    `    messages=${literal(messages)},`,
    ...plain.map(([name, value]) => `    ${name}=${literal(value)},`),
    `    stream=${literal(stream)},`,
    `    extra_body=${literal(extra)},`,
    ")",
    "for chunk in stream:",
    "    for choice in chunk.choices:",
    "        print(choice.delta.content or \"\", end=\"\", flush=True)",
    "",
  ].join("\n");
}

// Return a value as a Python literal; strings are written as in JSON.
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, item]) => `${ascii(name)}: ${literal(item)}`).join(", ")}}`;
  return ascii(value);
}
