"""What is on the cluster, read off Serve's replies."""

import copy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.description import describe
from ray_canary.explaining import explain
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.resolving import resolve
from ray_canary.serving import compile
from ray_canary.serving.release import Release
from ray_canary.serving.rollout import leftovers, preview
from ray_canary.serving.state import Live, OnCluster
from tests.unit.bento_store import write_bento
from tests.unit.serving import details as shape

FAILED = """\
The deployment failed to start 3 times in a row. Error:
ray::ServeReplica:d-canary-a:S.initialize_and_get_metadata() (pid=1)
ray_canary.serving.failures.BentoFailed: S of Bento s:1 failed to start
--- The Bento failed ---
Traceback (most recent call last):
  File "/b/src/service.py", line 3, in <module>
ValueError: the weights are damaged
--- End of the Bento's failure ---
more of Ray's"""
OWN_WORDS = """\
Traceback (most recent call last):
  File "/b/src/service.py", line 3, in <module>
ValueError: the weights are damaged"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_bento(tmp_path, "s:1", {"S": {}})
    data = {
        "name": "d",
        "bento": "s:1",
        "canary": {"route_type": "query", "route_by": "q", "versions": {"a": {"bento": "s:1", "weight": 30}}},
    }
    return resolve(config.parse(data), BentoStore(tmp_path), Catalogue.default())


def live(plan: Plan, *more: dict[str, Any], **instead: dict[str, Any]) -> Live:
    return shape.deployed(compile.serve_config(plan), *more, **instead).live()["d"]


def canary(plan: Plan, *parts: dict[str, Any], **given: Any) -> dict[str, Any]:
    """Return version a's application with these deployments."""
    return shape.application("d-canary-a", *parts, config=compile.version_application(plan.targets["a"]), **given)


def ingress(plan: Plan, user_config: Any, *replicas: dict[str, Any], **given: Any) -> dict[str, Any]:
    made = copy.deepcopy(compile.ingress_application(plan))
    made["deployments"][0]["user_config"] = user_config
    part = shape.deployment("Ingress", *replicas, user_config=user_config)
    return shape.application("d", part, config=made, route_prefix="/", **given)


def bad(plan: Plan) -> dict[str, Any]:
    user_config = compile.ingress_settings(plan).model_dump(mode="json")
    user_config["split"]["weights"]["a"] = 140
    return user_config


# One target. ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "given", "status", "ready", "effective"),
    [
        ([shape.deployment("S", shape.replica())], {}, "running", True, 30),
        ([shape.deployment("S", shape.replica(), target=2)], {}, "updating", True, 30),
        ([shape.deployment("S", shape.replica(), shape.replica("STARTING", "r2"))], {}, "updating", True, 30),
        ([shape.deployment("S", shape.replica(), shape.replica("UPDATING", "r2"))], {}, "updating", True, 30),
        ([shape.deployment("S", shape.replica(), shape.replica("STOPPING", "r2"), target=1)], {}, "running", True, 30),
        ([shape.deployment("S", shape.replica("STARTING"))], {"status": "DEPLOYING"}, "deploying", False, 0),
        ([shape.deployment("S", shape.pending())], {"status": "DEPLOYING"}, "deploying", False, 0),
        ([], {"status": "DEPLOYING"}, "deploying", False, 0),
        ([shape.deployment("S", target=0)], {}, "deploying", False, 0),
        ([shape.deployment("S", status="DEPLOY_FAILED", message=FAILED, target=1)], {}, "failed", False, 0),
        ([], {"status": "DEPLOY_FAILED", "message": "no module named x"}, "failed", False, 0),
        (
            [shape.deployment("S", shape.replica(), status="DEPLOY_FAILED", message=FAILED)],
            {"status": "DEPLOY_FAILED"},
            "failed-update",
            True,
            30,
        ),
        ([shape.deployment("S", shape.replica("STOPPING"))], {"status": "DELETING"}, "missing", False, 0),
    ],
    ids=[
        "runs",
        "grows",
        "starts another",
        "takes a user_config",
        "drains an old one",
        "starts",
        "waits for room",
        "is being built",
        "has none, and not on purpose",
        "failed",
        "could not be built",
        "failed to update",
        "goes",
    ],
)
def test_the_state_of_a_target_is_read_off_its_replicas(
    plan: Plan, parts: list[dict[str, Any]], given: dict[str, Any], status: str, ready: bool, effective: int
) -> None:
    found = live(plan, d_canary_a=canary(plan, *parts, **given))
    target = found.targets["a"]
    assert (target.status, target.ready) == (status, ready)
    assert found.effective() == {"main": 100 - effective, "a": effective}


def test_a_target_at_zero_on_purpose_is_ready(plan: Plan) -> None:
    scaling = plan.targets["a"].services["S"].scaling.model_copy(update={"min_replicas": 0})
    service = plan.targets["a"].services["S"].model_copy(update={"scaling": scaling})
    a = plan.targets["a"].model_copy(update={"services": {"S": service}})
    sleepy = plan.model_copy(update={"targets": {**plan.targets, "a": a}})
    asleep = live(sleepy, d_canary_a=canary(sleepy, shape.deployment("S", target=0))).targets["a"]
    assert (asleep.status, asleep.ready) == ("scaled-to-zero", True)


def test_an_application_that_is_not_there_is_missing(plan: Plan) -> None:
    made = compile.serve_config(plan)
    found = shape.deployed({"applications": made["applications"][:2]}).live()["d"]
    assert (found.targets["a"].status, found.targets["a"].ready, found.status) == ("missing", False, "unhealthy")


def test_a_failure_is_told_in_the_bentos_own_words(plan: Plan) -> None:
    found = live(plan, d_canary_a=canary(plan, shape.deployment("S", status="DEPLOY_FAILED", message=FAILED, target=1)))
    application = found.targets["a"].application
    assert application is not None
    assert application.failure == OWN_WORDS
    assert describe(found)["targets"]["a"]["message"] == OWN_WORDS


def test_while_serve_tries_again_the_failure_is_trouble(plan: Plan) -> None:
    trying = canary(plan, shape.deployment("S", shape.replica("STARTING"), status="UPDATING", message=FAILED))
    application = live(plan, d_canary_a=trying).targets["a"].application
    assert application is not None
    assert (application.failure, application.trouble) == (None, OWN_WORDS)


def test_a_failure_without_words_of_the_bentos_is_told_in_serves(plan: Plan) -> None:
    for message, told in (("no module named x", "no module named x"), ("", "Serve gives no reason")):
        application = (
            live(plan, d_canary_a=canary(plan, status="DEPLOY_FAILED", message=message)).targets["a"].application
        )
        assert application is not None
        assert application.failure == told


# A Deployment. --------------------------------------------------------------------------------------------------------


def test_a_deployment_runs_when_its_ingress_and_all_its_targets_do(plan: Plan) -> None:
    found = live(plan)
    assert (found.status, found.url, found.single, found.rejected) == ("running", "http://127.0.0.1:8000", False, None)
    assert found.file() == plan.file
    assert found.version_applications == ("d-main", "d-canary-a")


@pytest.mark.parametrize(
    ("status", "main", "a"),
    [
        ("failed", shape.deployment("S", status="DEPLOY_FAILED", target=1), shape.deployment("S", shape.replica())),
        ("unhealthy", shape.deployment("S", shape.replica()), shape.deployment("S", status="DEPLOY_FAILED", target=1)),
        (
            "unhealthy",
            shape.deployment("S", shape.replica(), status="DEPLOY_FAILED"),
            shape.deployment("S", shape.replica()),
        ),
        ("deploying", shape.deployment("S", shape.replica()), shape.deployment("S", shape.replica("STARTING"))),
    ],
)
def test_the_status_of_a_deployment_is_that_of_its_worst_part(
    plan: Plan, status: str, main: dict[str, Any], a: dict[str, Any]
) -> None:
    mains = shape.application("d-main", main, config=compile.version_application(plan.targets["main"]))
    assert live(plan, d_main=mains, d_canary_a=canary(plan, a)).status == status


def test_a_deployment_without_an_ingress_replica_is_deploying_or_failed(plan: Plan) -> None:
    user_config = compile.ingress_settings(plan).model_dump(mode="json")
    assert live(plan, d=ingress(plan, user_config, shape.replica("STARTING"))).status == "deploying"
    assert live(plan, d=ingress(plan, user_config, status="DEPLOY_FAILED")).status == "failed"
    assert live(plan, d=ingress(plan, user_config, status="DELETING")).status == "terminating"


def test_a_terminated_deployment_has_no_share_in_force_and_keeps_its_file(plan: Plan) -> None:
    user_config = compile.ingress_settings(plan).model_dump(mode="json") | {"terminated": True}
    off = ingress(plan, user_config, shape.replica())
    found = OnCluster.of(shape.details(off)).live()["d"]
    assert (found.status, found.effective(), found.file()) == ("terminated", {"main": 0, "a": 0}, plan.file)
    assert {target.status for target in found.targets.values()} == {"terminated"}
    assert found.version_applications == ()


def test_the_live_file_has_the_weights_that_are_in_force(plan: Plan) -> None:
    user_config = compile.ingress_settings(plan).model_dump(mode="json")
    user_config["split"]["weights"]["a"] = 5
    found = live(plan, d=ingress(plan, user_config, shape.replica()))
    assert found.file()["canary"]["versions"]["a"] == {"bento": "s:1", "weight": 5}
    assert plan.file["canary"]["versions"]["a"]["weight"] == 30


def test_a_rejected_split_is_told_and_a_running_ingress_is_unhealthy_but_a_fresh_one_failed(plan: Plan) -> None:
    running = live(plan, d=ingress(plan, bad(plan), shape.replica()))
    refusing = live(plan, d=ingress(plan, bad(plan), shape.replica("UPDATING")))
    fresh = live(plan, d=ingress(plan, bad(plan), shape.replica("STARTING")))
    assert running.rejected == fresh.rejected == "split.weights.a: 140 is not a whole number from 0 to 100"
    assert (running.status, refusing.status, fresh.status) == ("unhealthy", "unhealthy", "failed")
    about = describe(running)
    assert about["split"] == {"rejected": running.rejected}
    assert about["endpoint_urls"] == ["http://127.0.0.1:8000"]
    with pytest.raises(ValidationError):
        _ = running.settings


@pytest.mark.parametrize("user_config", [{}, {"targets": None}, {"targets": {"main": None}}, {"targets": {"a": {}}}])
def test_whatever_stands_in_a_rejected_split_its_versions_are_known_by_their_names(
    plan: Plan, user_config: dict[str, Any]
) -> None:
    found = live(plan, d=ingress(plan, user_config, shape.replica()))
    assert found.rejected
    assert set(found.version_applications) == {"d-main", "d-canary-a"}


def test_an_application_of_somebody_elses_is_never_taken_for_a_version(plan: Plan) -> None:
    user_config = compile.ingress_settings(plan).model_dump(mode="json")
    user_config["targets"]["a"]["application"] = "theirs"
    theirs = shape.application("theirs", config={"name": "theirs", "import_path": "m:app"})
    alike = shape.application("d-canary-x", config={"name": "d-canary-x", "import_path": "m:app"})
    found = live(plan, theirs, alike, d=ingress(plan, user_config, shape.replica()))
    assert set(found.version_applications) == {"d-main", "d-canary-a"}


# The single-application form. -----------------------------------------------------------------------------------------


def single(plan: Plan, a: dict[str, Any], **given: Any) -> Live:
    (made,) = compile.single_application_config(plan)["applications"]
    parts = [
        shape.deployment("Ingress", shape.replica(), user_config=made["deployments"][0]["user_config"]),
        shape.deployment("main.S", shape.replica()),
        a,
    ]
    return OnCluster.of(shape.details(shape.application("d", *parts, config=made, route_prefix="/", **given))).live()[
        "d"
    ]


def test_in_one_application_every_version_has_a_state_of_its_own(plan: Plan) -> None:
    found = single(
        plan, shape.deployment("a.S", status="DEPLOY_FAILED", message=FAILED, target=1), status="DEPLOY_FAILED"
    )
    assert found.single
    assert {key: target.status for key, target in found.targets.items()} == {"main": "running", "a": "failed"}
    assert found.effective() == {"main": 100, "a": 0}
    about = describe(found)["targets"]
    assert (about["main"]["message"], about["a"]["message"]) == (None, OWN_WORDS)
    assert about["a"]["application"] == "d"
    assert found.file() == plan.file


def test_one_application_that_could_not_be_built_has_failed_in_all_its_parts(plan: Plan) -> None:
    (made,) = compile.single_application_config(plan)["applications"]
    failed = shape.application("d", config=made, status="DEPLOY_FAILED", message="no Bento s")
    found = OnCluster.of(shape.details(failed)).live()["d"]
    assert {target.status for target in found.targets.values()} == {"failed"}


def test_where_the_config_leaves_the_split_to_the_builder_it_is_read_off_the_deployment(plan: Plan) -> None:
    made = {"name": "d", "import_path": "ray_canary:app", "args": {"config": "/x.yaml"}}
    settings = compile.single_settings(plan).model_copy(update={"file": plan.file}).model_dump(mode="json")
    part = shape.deployment("Ingress", shape.replica(), user_config=settings)
    found = OnCluster.of(shape.details(shape.application("d", part, config=made, route_prefix="/"))).live()["d"]
    assert found.file() == plan.file


# What is there beside. ------------------------------------------------------------------------------------------------

THEIRS = {"name": "theirs", "route_prefix": "/theirs", "import_path": "m:app"}


def test_only_deployments_are_ours_and_versions_are_parts_of_them(plan: Plan) -> None:
    found = shape.deployed(compile.serve_config(plan), shape.application("theirs", config=THEIRS))
    assert list(found.live()) == ["d"]
    assert OnCluster.of(shape.details()).live() == {}


def test_merging_keeps_what_others_have_as_they_submitted_it(plan: Plan) -> None:
    run = shape.application("by-serve-run", shape.deployment("X", shape.replica()))
    going = shape.application("going", config={"name": "going", "import_path": "m:app"}, status="DELETING")
    found = shape.deployed(compile.serve_config(plan), shape.application("theirs", config=THEIRS), run, going)
    new = {"name": "d-canary-b", "import_path": "ray_canary:version"}
    merged = found.merged([new], frozenset({"d-canary-a"}), proxy_location="Disabled")
    assert [one["name"] for one in merged["applications"]] == ["d", "d-main", "theirs", "d-canary-b"]
    assert merged["applications"][2] == THEIRS
    assert merged["applications"][3] is new
    assert (merged["http_options"]["port"], merged["proxy_location"]) == (8000, "EveryNode")
    assert "target_capacity" not in merged


def test_options_of_the_instance_are_given_only_while_serve_does_not_run() -> None:
    empty = OnCluster.of(shape.details(serving=False))
    assert not empty.serving
    assert empty.merged([], http_options={"port": 9}) == {"http_options": {"port": 9}, "applications": []}


def version_of(deployment: str, name: str) -> compile.Config:
    return {"name": name, "import_path": "ray_canary:version", "args": {"deployment": deployment}}


def test_versions_that_a_plan_has_no_use_for_are_left_over_unless_they_go_already(plan: Plan) -> None:
    without = plan.model_copy(update={"targets": {"main": plan.targets["main"]}})
    found = shape.deployed(compile.serve_config(plan))
    assert leftovers(Release.of(plan), found) == frozenset()
    assert leftovers(Release.of(without), found) == {"d-canary-a"}
    orphan = shape.application("d-canary-x", config=version_of("d", "d-canary-x"))
    other = shape.application("e-canary-x", config=version_of("e", "e-canary-x"))
    assert leftovers(Release.of(plan), OnCluster.of(shape.details(orphan, other))) == {"d-canary-x"}
    going = canary(plan, shape.deployment("S"), status="DELETING")
    assert leftovers(Release.of(without), shape.deployed(compile.serve_config(plan), d_canary_a=going)) == frozenset()


def test_a_preview_leaves_other_peoples_applications_out(plan: Plan) -> None:
    found = shape.deployed(compile.serve_config(plan), shape.application("theirs", config=THEIRS))
    changes = preview(plan, found)
    assert {(change.application, change.effect.value) for change in changes} == {
        ("d", "unchanged"),
        ("d-main", "unchanged"),
        ("d-canary-a", "unchanged"),
    }
    without = plan.model_copy(update={"targets": {"main": plan.targets["main"]}})
    effects = {change.application: change.effect.value for change in preview(without, found)}
    assert effects == {"d": "changes live", "d-main": "unchanged", "d-canary-a": "is removed"}


# Why a request goes where it goes. ------------------------------------------------------------------------------------


def test_an_explanation_names_the_version_and_who_answers_instead_of_it(plan: Plan) -> None:
    gone = canary(plan, shape.deployment("S", shape.replica("STARTING")))
    well, ill = live(plan), live(plan, d_canary_a=gone)
    key = next(key for key in map(str, range(99)) if explain(well, key=key)["version"] == "a")
    told = explain(ill, query=f"x=1&q={key}&q=other")
    assert (told["key"], told["reason"], told["version"], told["answers"]) == (key, "keyed", "a", "main")
    assert told["weights"] == {"main": 70, "a": 30}
    assert min(told["scores"], key=told["scores"].__getitem__) == "a"
    assert explain(well, key=key)["answers"] == "a"


def test_when_main_is_not_ready_either_nobody_answers(plan: Plan) -> None:
    gone = shape.application("d-main", config=compile.version_application(plan.targets["main"]))
    found = live(plan, d_main=gone)
    key = next(key for key in map(str, range(99)) if explain(found, key=key)["version"] == "main")
    assert explain(found, key=key)["answers"] is None


@pytest.mark.parametrize("query", ["", "Q=1", "q=", "x=q"])
def test_a_request_without_a_key_is_explained_as_such(plan: Plan, query: str) -> None:
    told = explain(live(plan), query=query)
    assert (told["key"], told["version"], told["scores"]) == (None, None, {})
    assert told["reason"] == "The split goes by query parameter q, which this request doesn't have"
