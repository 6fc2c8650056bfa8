"""Puts what was exported into MLflow's Model Registry, beside the records of its study."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from dashboards.store.connection import connect, store_calls
from studies.text.redact import redact

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}")
LONGEST_TAG = 4000  # MLflow takes 5000


def name_problem(name: str) -> str | None:
    """What is wrong with the name of a registered model, None where nothing is."""
    if _NAME.fullmatch(name):
        return None
    return "must be a name of letters, digits, spaces, '.', '_' and '-', such as my-model"


def register(uri: str, name: str, run_id: str, folder: Path, tags: Mapping[str, str]) -> str:
    """Keep the folder with the run and register it as another version of the model `name`, which is made where there is
    none; gives the number of the version. Raises StoreError.
    """
    from mlflow.exceptions import MlflowException

    client, place = connect(uri), f"registered/{secrets.token_hex(4)}"
    told = {key: str(redact(text))[:LONGEST_TAG] for key, text in tags.items()}
    with store_calls(uri):
        client.log_artifacts(run_id, str(folder), place)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
        made = client.create_model_version(name, source, run_id=run_id, tags=told)
    return str(made.version)
