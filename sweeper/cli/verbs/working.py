"""The command of other machines: worker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.refusal import refuse


def worker(
    connect: Annotated[str, typer.Option(metavar="HOST:PORT", help="the sweep's, as it says; several with commas")],
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the sweep's key, where it is not in SWEEPER_KEY")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="places  (default: a GPU each, else a core)")] = None,
) -> None:
    """Train on this machine for a sweep elsewhere (`sweeper run --executor hosts`) that shares its folder."""
    from sweeper.executors.door.dial import NobodyThere
    from sweeper.executors.door.greeting import Refused
    from sweeper.executors.door.network import KEY_FILE_VARIABLE, KEY_VARIABLE, key_in, split_address
    from sweeper.executors.elsewhere.agent import Agent
    from sweeper.executors.process.devices import usable_cores, visible_gpus, worker_environments

    given = dict(os.environ) if key_file is None else {KEY_FILE_VARIABLE: str(key_file)}
    addresses = [address.strip() for address in connect.split(",") if address.strip()]
    try:
        key = key_in(given)
        wrong = [address for address in addresses if split_address(address)[1] is None]
        if wrong or not addresses:
            raise ValueError(f"--connect {', '.join(wrong)}: needs HOST:PORT, such as 10.0.0.7:4711")
        # All of the environment: whoever starts this means it for the workers.
        environments = worker_environments(workers, visible_gpus(os.environ), usable_cores(), os.environ, os.environ)
        for name in (KEY_VARIABLE, KEY_FILE_VARIABLE):
            for environment in environments:
                environment.pop(name, None)
        Agent(addresses, key, environments, typer.echo).serve()
    except Refused as error:
        refuse([f"{error}."])
    except NobodyThere as error:
        refuse([f"{error}. Start the sweep first, with --executor hosts, and take the command that it prints."])
    except OSError as error:
        refuse([f"{error.filename or connect}: {error.strerror or error}."])
    except ValueError as error:
        refuse([f"{error}."])
