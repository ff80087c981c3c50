"""`hartonomous trial`: everything on this machine, with small real models, until Ctrl-C."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hartonomous.cli.common import INTERRUPTED

if TYPE_CHECKING:
    from hartonomous.config import Config

_EXTRA = ("xllamacpp", "gguf", "safetensors", "numpy")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `trial`."""
    parser = subparsers.add_parser("trial", help="run everything here, with small real models", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("etc/trial.yaml"), metavar="FILE")
    parser.add_argument("--models", type=Path, default=Path("var/models"), metavar="DIR", help="where models are kept")
    parser.add_argument("--data", type=Path, default=Path("var/engine"), metavar="DIR", help="the vector engine's data")
    parser.add_argument("--logs", type=Path, default=Path("var/log"), metavar="DIR", help="a log file for each part")
    parser.add_argument("--model", type=Path, metavar="PATH.gguf", help="another generative model")
    parser.add_argument("--fetch-only", action="store_true", help="fetch the models, start nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the trial; return 0 when it was ended by a signal, 1 with a sentence when it could not go on."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        return _fail(
            f"The trial needs {', '.join(missing)}: pip install 'hartonomous[trial]'. If pip finds no wheel for this "
            "platform, run llama.cpp's own server and start `hartonomous serve`."
        )
    from hartonomous.errors import ConfigError
    from hartonomous.trial import TrialError

    try:
        if args.fetch_only:
            _fetch(args)
        else:
            _run(args)
    except (TrialError, ConfigError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        # Before the parts are started nobody else handles it.
        return INTERRUPTED
    return 0


def _fail(sentence: str) -> int:
    print(f"hartonomous trial: {sentence}", file=sys.stderr)
    return 1


def _fetch(args: argparse.Namespace) -> None:
    from hartonomous.trial import models

    for package in (models.GENERATIVE, models.EMBEDDING):
        models.provide(package, args.models)


def _run(args: argparse.Namespace) -> None:
    import asyncio

    from hartonomous import configfile
    from hartonomous.trial import models, parts, stack

    own = models.check_gguf(args.model) if args.model else None
    config = configfile.load(args.config, os.environ)
    generative = own or args.models / models.GENERATIVE.target
    embedding = args.models / models.EMBEDDING.target
    stages = parts.make_stages(config, args.config, args.data, generative, embedding)
    stack.check_ports(part for stage in stages for part in stage)
    for package in (models.EMBEDDING,) if own else (models.GENERATIVE, models.EMBEDDING):
        models.provide(package, args.models)
    stack.say(f"Starting; the logs are in {args.logs}/")
    asyncio.run(stack.Stack(stages, args.logs).run(lambda: stack.say(_how_to_ask(config))))
    stack.say("Stopped.")


def _how_to_ask(config: Config) -> str:
    url = f"http://127.0.0.1:{config.server.port}/rag"
    json = "-H 'Content-Type: application/json'"
    document = '{"documents": [{"id": "lamp", "text": "The Aurora lamp shines for 14 hours on one charge."}]}'
    question = '{"query": "How long does the Aurora lamp shine?"'
    return f"""
Everything is up. In another shell:

  curl -s {url}/ingest {json} -d '{document}'
  curl -s {url}/query {json} -d '{question}}}'
  curl -sN {url}/query {json} -d '{question}, "stream": true}}'

Ctrl-C here stops everything; what was ingested stays.
"""
