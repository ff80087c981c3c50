"""The parts of the trial, as its configuration names them: three model services, the vector engine, the API.

The configuration alone says where things listen; the trial starts what stands in it on these ports.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

from hartonomous.config import Config
from hartonomous.services import ModelService
from hartonomous.trial import TrialError
from hartonomous.trial.models import EMBEDDING, GENERATIVE
from hartonomous.trial.stack import Part

_LOOPBACK = {"127.0.0.1", "localhost"}
# A large model of the user's own may be read from a slow disk for minutes.
_MODEL_SECONDS = 900.0
_SPARE_SECONDS = 5.0


def make_stages(
    config: Config, config_path: Path, data: Path, generative: Path, embedding: Path
) -> tuple[tuple[Part, ...], ...]:
    """Return the parts in the order of their start: what the API stands on, then the API.

    Raises:
        TrialError: the configuration names a service that the trial cannot start.
    """
    backends = config.backends
    below = [
        _llama("generative", backends.generative, generative),
        _llama("embedding", backends.embedding, embedding),
    ]
    if backends.reranking is not None:
        below.append(_rerank(backends.reranking, below[1].port))
    return (*below, _engine(config, data)), (_api(config, config_path),)


def alias_of(model: Path) -> str:
    """Return the name that a model has to clients: the file's, without what says how it is stored."""
    known = {GENERATIVE.target, EMBEDDING.target}
    return model.name.split(".")[0] if model.name in known else model.stem


def _llama(kind: str, service: ModelService, model: Path) -> Part:
    port = _only_port(service, kind)
    options = ("--kind", kind, "--model", str(model), "--port", str(port), "--alias", alias_of(model))
    return _model_part(f"{kind} service", "hartonomous.trial.llama_server", options, port)


def _rerank(service: ModelService, embedding_port: int) -> Part:
    port = _only_port(service, "reranking")
    options = ("--embedding", f"http://127.0.0.1:{embedding_port}", "--port", str(port))
    return _model_part("reranking service", "hartonomous.trial.rerank", options, port)


def _model_part(name: str, module: str, options: tuple[str, ...], port: int) -> Part:
    argv = (sys.executable, "-m", module, *options)
    return Part(name, argv, port, f"http://127.0.0.1:{port}/health", start=_MODEL_SECONDS)


def _engine(config: Config, data: Path) -> Part:
    port = _local_port(config.backends.qdrant.url, "backends.qdrant.url")
    options = ("engine", "--data", str(data), "--listen", f"127.0.0.1:{port}")
    return Part("vector engine", _ourselves(*options), port, f"http://127.0.0.1:{port}/readyz")


def _api(config: Config, path: Path) -> Part:
    host, port = config.server.host, config.server.port
    if host not in _LOOPBACK or port == 0:
        raise TrialError("server.host and server.port: the trial's API listens on a fixed port of 127.0.0.1.")
    grace = config.server.drain_s + _SPARE_SECONDS
    argv = _ourselves("serve", "--config", str(path))
    return Part("API", argv, port, f"http://127.0.0.1:{port}/ready", grace=grace)


def _ourselves(*argv: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "hartonomous", *argv)


def _only_port(service: ModelService, name: str) -> int:
    if len(service.urls) != 1:
        raise TrialError(f"backends.{name}.urls: the trial starts one {name} service, so one address must stand here.")
    return _local_port(service.urls[0].url, f"backends.{name}.urls")


def _local_port(url: str, key: str) -> int:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in _LOOPBACK or parts.port is None or parts.path:
        raise TrialError(f"{key}: the trial starts this service itself, so http://127.0.0.1:PORT must stand here.")
    return parts.port
