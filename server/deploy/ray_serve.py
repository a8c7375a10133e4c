"""Two replicas of a local model on Ray Serve: `serve run ray_serve:app`."""

from fastapi import FastAPI
from ray import serve

from dedup_server.app import create_app
from dedup_server.engines.local.engine import DEMO_MODEL, LocalEngine
from dedup_server.settings import load

MODEL = str(DEMO_MODEL)  # a folder, a GGUF file or a hub id


def build() -> FastAPI:
    """Return the application of one replica, which gets requests once its model is loaded."""
    return create_app(load(model=MODEL), LocalEngine(MODEL), waits_for_engine=True)


deployment = serve.deployment(serve.ingress(build)())
app = deployment.options(num_replicas=2, ray_actor_options={"num_cpus": 0.5}).bind()
