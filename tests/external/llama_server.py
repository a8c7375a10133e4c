"""llama.cpp's server with the demo model: `python tests/external/llama_server.py PORT`.

It overrides two defaults: a repeat penalty of 1.1, which would keep the demo model from looping,
and that a request ends the one before it.
"""

import sys
import tempfile
from pathlib import Path

import uvicorn
from llama_cpp.server import types
from llama_cpp.server.app import create_app
from llama_cpp.server.settings import ModelSettings, ServerSettings

from tests.external import demo_gguf


def main() -> None:
    for request in (types.CreateChatCompletionRequest, types.CreateCompletionRequest):
        request.model_fields["repeat_penalty"].default = 1.0
        request.model_rebuild(force=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.gguf"
        demo_gguf.write(path)
        model = ModelSettings(model=str(path), model_alias="demo", n_ctx=1024, verbose=False)
        app = create_app(
            server_settings=ServerSettings(interrupt_requests=False), model_settings=[model]
        )
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
