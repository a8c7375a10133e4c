"""SGLang's part of the test, run where this library is not installed.

python -I -S served.py SITE_PACKAGES MODEL INPUT OUTPUT

SGLang's own file of custom processors and its function that calls them are real. Its requests and
its schedule are imitated, since its server takes a GPU: INPUT holds the requests and the batches.
"""

import ast
import importlib.util
import pickle
import sys
import weakref
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PROCESSORS = "sglang.srt.sampling.custom_logit_processor"


def load_sglang(site_packages: Path) -> tuple[Any, Any]:
    """Return `CustomLogitProcessor` and `apply_custom_logit_processor`.

    Importing the package would take all of its dependencies.
    """
    import logging

    import torch

    folder = site_packages / "sglang" / "srt"
    spec = importlib.util.spec_from_file_location(
        PROCESSORS, folder / "sampling" / "custom_logit_processor.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[PROCESSORS] = module
    spec.loader.exec_module(module)
    tree = ast.parse((folder / "layers" / "sampler.py").read_text("utf-8"))
    name = "apply_custom_logit_processor"
    tree.body = [node for node in tree.body if getattr(node, "name", "") == name]
    annotations = {"SamplingBatchInfo": Any}
    namespace: dict[str, Any] = {
        "torch": torch,
        "logger": logging.getLogger("sglang"),
        **annotations,
    }
    exec(compile(tree, name, "exec"), namespace)
    return module.CustomLogitProcessor, namespace[name]


class Request:
    """A request as SGLang's scheduler keeps it."""

    def __init__(self, prompt: list[int], params: Any, tokenizer: Any) -> None:
        self.origin_input_ids = array("q", prompt)
        self.output_ids = array("q")
        self.tokenizer = tokenizer
        self.decode_batch_idx = 0
        self.custom_params = params
        if isinstance(params, dict):
            self.custom_params = params | {"__req__": weakref.proxy(self)}


class Batch:
    """The part of SGLang's `SamplingBatchInfo` that its function reads."""

    def __init__(self, requests: list[Request], processors: list[Any]) -> None:
        import torch

        self.device = "cpu"
        self.custom_params = [request.custom_params for request in requests]
        self.custom_logit_processor = {}
        for key in dict.fromkeys(id(processor) for processor in processors if processor):
            rows = [row for row, processor in enumerate(processors) if id(processor) == key]
            self.custom_logit_processor[key] = SimpleNamespace(
                processor=processors[rows[0]], rows=rows, indices=torch.tensor(rows)
            )

    def __len__(self) -> int:
        return len(self.custom_params)


def serve(given: dict[str, Any], base: Any, apply: Any, tokenizer: Any) -> list[Any]:
    """Return the logits after each step."""
    import torch

    processor = base.from_str(given["processor"])
    assert isinstance(processor, base)
    requests = [Request(prompt, params, tokenizer) for prompt, params in given["requests"]]
    results = []
    for step in given["steps"]:
        for number, output in step["outputs"].items():
            requests[number].output_ids = array("q", output)
            requests[number].decode_batch_idx = step["decode_steps"][number]
        batch = [requests[number] for number in step["batch"]]
        logits = torch.tensor(step["logits"]).to(getattr(torch, step.get("dtype", "float32")))
        processors = [processor if number in given["with"] else None for number in step["batch"]]
        apply(logits, Batch(batch, processors), step.get("tokens_per_request", 1))
        results.append(logits.float().numpy())
    return results


def main() -> None:
    site_packages, model, source, target = map(Path, sys.argv[1:])
    sys.path.append(str(site_packages))  # without site, no editable install is found
    from transformers import AutoTokenizer

    assert importlib.util.find_spec("dedup") is None
    tokenizer = AutoTokenizer.from_pretrained(model)
    given = pickle.loads(source.read_bytes())
    results = serve(given, *load_sglang(site_packages), tokenizer)
    loaded = [name for name in sys.modules if name.split(".")[0] == "dedup"]
    assert not loaded, loaded
    target.write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()
