"""What the sources of a study hold, now or as its last sweep kept it: what sweeps check and readers compare with.

The commit of what lies on the Hub, and the day that a chat template is told, are those of the study's first sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dashboards.store.connection import store_uri
from dashboards.store.mlflow_tags import contents_in
from dashboards.store.records import load_study_tags
from studies.records import COMMIT, DATA_DIGEST, RunConfig, Scalar, digest
from studies.schema.contents import DATED, JUDGE_FUNCTION, JUDGE_MODEL, Source, changed_since, judge_sources, sources
from studies.schema.paths import existing
from studies.schema.variants import possible
from studies.spec import Study, StudySpec


def as_recorded(spec: StudySpec) -> tuple[StudySpec, bool]:
    """The study with the contents that its last sweep kept in the store, and whether there was one that kept any.

    Reads no file, no model and no network. Raises StoreError.
    """
    return with_kept_contents(spec, load_study_tags(store_uri(None, Path.cwd()), spec.study))


def with_kept_contents(spec: StudySpec, tags: Mapping[str, str]) -> tuple[StudySpec, bool]:
    """The same by the tags of the study in the store."""
    contents = contents_in(tags)
    return spec.model_copy(update={"contents": contents or {}}), contents is not None


def as_found(
    study: Study,
    tell_user: Callable[[str], None],
    *,
    refresh: bool = False,
    reach: bool = True,
) -> Study:
    """The study with what its sources hold now, Hub commits and days as kept unless `refresh` asks for today's.

    `reach`: ask the Hub for what is not kept, and whether it has moved on since. Raises StoreError.
    """
    spec = study.spec
    kept = {} if refresh else dict(as_recorded(spec)[0].contents)
    found: dict[str, str] = {}
    for source in study_sources(study):
        asked = source
        if source.what == DATED:  # of the model as it was found just before, so that nobody is asked for it again
            commit = found.get(str(source._replace(what="model")), "").partition(COMMIT)[2]
            asked = source._replace(revision=commit or source.revision)
        content = _content(asked, kept.get(str(source)), reach and spec.trainer != "formula", tell_user)
        if content is not None:
            found[str(source)] = content
    return study.holding(found)


def with_judge(study: Study, tell_user: Callable[[str], None]) -> Study:
    """The study with what its judges hold now, beside the contents that it has."""
    spec, found = study.spec, dict(study.spec.contents)
    for judge in dict.fromkeys(judge_sources(spec.evaluation).values()):
        content = _content(judge, spec.contents.get(str(judge)), True, tell_user)
        found |= {} if content is None else {str(judge): content}
    return study.holding(found)


def study_sources(study: Study) -> tuple[Source, ...]:
    """All sources that runs of the study read, and those who look at their samples."""
    found = dict.fromkeys(judge_sources(study.spec.evaluation).values())
    for arm in study.variants.values():
        for model in possible(arm).get("model_name_or_path", (None,)):
            found |= dict.fromkeys(sources({**arm.settings, "model_name_or_path": model}, study.spec.data).values())
    return tuple(found)


def is_as_recorded(study: Study) -> bool:
    """Whether the data and models that `study` knows held the same at its last sweep. Raises StoreError."""
    kept, judges = as_recorded(study.spec)[0].contents, judge_sources(study.spec.evaluation).values()
    names = [str(source) for source in study_sources(study) if source not in judges]
    return all(kept.get(name) == study.spec.contents.get(name) for name in names)


def _content(source: Source, kept: str | None, reach: bool, tell_user: Callable[[str], None]) -> str | None:
    from trainers.contents import hub_commit, read_content

    here = source.what == JUDGE_FUNCTION or existing(source.name) is not None
    if kept is not None and (source.what == DATED or (kept.startswith(COMMIT) and not here)):
        if source.what != DATED and reach and (now := hub_commit(source)) not in (None, kept.removeprefix(COMMIT)):
            then = "measures finished runs again" if source.what == JUDGE_MODEL else "leaves the finished runs behind"
            tell_user(
                f"The Hub's {source} has moved on to {str(now)[:12]}; this study stays with "
                f"{kept.removeprefix(COMMIT)[:12]}. `--refresh` takes the new one, and {then}."
            )
        return kept
    return read_content(source) if here or reach else None


def pairs_comparer() -> Callable[[Mapping[str, Scalar], RunConfig], str | None]:
    """Whether the pairs of a run of format 1 are still those that it recorded the digest of: None where they are, or
    where it recorded none or they cannot be read now, which its training would tell; else what changed.
    """
    digests: dict[str, str | None] = {}

    def compare(facts: Mapping[str, Scalar], config: RunConfig) -> str | None:
        recorded = facts.get(DATA_DIGEST)
        if recorded is None or not config.content.keys() & {"data", "eval_data"}:
            return None
        of = digest([config.data.model_dump(mode="json"), config.block, config.settings.get("model_name_or_path")])
        if of not in digests:
            digests[of] = _pairs_digest(config)
        same = digests[of] in (None, recorded)
        return None if same else changed_since([Source("data", config.data.path)])

    return compare


def _pairs_digest(config: RunConfig) -> str | None:
    from trainers.data.pairs import DataError
    from trainers.export_files import pairs_digest

    try:
        return pairs_digest(config)
    except (DataError, OSError, ValueError):
        return None
