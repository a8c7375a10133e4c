"""llama.cpp's own server with the demo model: `python -m tests.external.llama_server PORT [MODEL.gguf]`."""

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xllamacpp

_SLOTS, _CONTEXT = 4, 1024  # the demo model's context, for each request in progress


@contextmanager
def serving(port: int, weights: Path | None = None) -> Iterator[str]:
    """Serve a GGUF file, or the demo model, until the block ends; yield the address."""
    with tempfile.TemporaryDirectory() as folder:
        if weights is None:
            from tests.external import demo_gguf  # it needs `gguf`, which other models do not

            weights = Path(folder) / "demo.gguf"
            demo_gguf.write(weights)
        params = xllamacpp.CommonParams()
        params.model.path = str(weights)
        params.model_alias = {weights.stem}
        params.hostnames = ["127.0.0.1"]
        params.port = port
        params.n_parallel = _SLOTS
        params.n_ctx = _SLOTS * _CONTEXT
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cpuparams.poll = params.cpuparams_batch.poll = 0  # waiting threads sleep
        params.verbosity = 0
        server = xllamacpp.Server(params)
        yield server.listening_address
        del server  # it listens until then


def main() -> None:
    weights = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serving(int(sys.argv[1]), weights):
            signal.pause()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
