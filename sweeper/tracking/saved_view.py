"""How MLflow's own pages show a study: its question and a saved view of its runs; writes nothing itself."""

from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Mapping

from dashboards.store.mlflow_tags import KIND, RUN
from dashboards.store.records import VIEW_TAG
from studies.spec import StudySpec
from studies.text.redact import redact


def experiment_tags(spec: StudySpec) -> Mapping[str, str]:
    """What makes MLflow's pages show a study well: its question and the saved view that `view_page` opens.

    Without the view MLflow 3.17 opens its page for agents, and behind it one collapsed row, the sweep's, and no charts.
    A saved view is a tag that holds the page's state, zipped; its format is MLflow's own (read off 3.17.2) and no part
    of its API: should it change, the view is missing and nothing else breaks.
    """
    measured = [spec.objective.metric, "kl", "margin", "steps_per_second"]
    own = (name for variant in spec.variants.values() for name in variant.space)
    columns = [f"metrics.`{name}`" for name in dict.fromkeys(measured)]
    columns += [f"params.`{name}`" for name in dict.fromkeys([*spec.space, *own])]
    state = {
        "searchFilter": f"tags.{KIND} = '{RUN}'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["tags.`state`", "tags.`failure`", *columns],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "variant"}],
        },
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    zipped = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": "By variant", "createdAt": 0, "updatedAt": 0, "state": f"deflate;{zipped}"}
    return {VIEW_TAG: json.dumps(view), **note(spec.question)}


def note(question: str) -> Mapping[str, str]:
    """The tag that MLflow's pages show as Markdown above the runs, with nothing in it that Markdown or HTML acts on."""
    plain = html.escape(redact(question), quote=False)
    for mark in "\\`*_[]!#|~":
        plain = plain.replace(mark, f"\\{mark}")
    return {"mlflow.note.content": plain} if plain else {}
