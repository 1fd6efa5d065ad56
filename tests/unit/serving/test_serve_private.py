"""The private corners of Serve that `serving/serve_private.py` reads are where they were.

What they do is seen by every end-to-end test; these say which one has moved.
"""

import inspect

from ray import serve


def test_a_handle_to_an_application_that_is_not_there_yet_can_be_had() -> None:
    assert "_check_exists" in inspect.signature(serve.get_deployment_handle).parameters


def test_a_handle_can_send_by_value_and_by_reference() -> None:
    from ray.serve.handle import DeploymentHandle

    parameters = inspect.signature(DeploymentHandle.options).parameters
    assert {"method_name", "stream", "_by_reference"} <= set(parameters)


def test_a_handle_has_a_router_that_has_a_replica_set() -> None:
    from ray.serve._private import router
    from ray.serve._private.request_router.request_router import RequestRouter
    from ray.serve.handle import DeploymentHandle

    assert "self._router" in inspect.getsource(DeploymentHandle.__mro__[1])
    for kind in (router.CurrentLoopRouter, router.SingletonThreadRouter):
        assert "self._asyncio_router = " in inspect.getsource(kind)
    assert isinstance(router.AsyncioRouter.request_router, property)
    assert "self._deployment_available = " in inspect.getsource(router.AsyncioRouter.update_deployment_targets)
    assert isinstance(RequestRouter.curr_replicas, property)


def test_a_call_knows_whether_a_replica_has_accepted_it() -> None:
    from ray.serve.handle import DeploymentResponseGenerator

    assert "self._replica_result_future = " in inspect.getsource(DeploymentResponseGenerator.__mro__[1])


def test_a_call_knows_which_replica_has_accepted_it() -> None:
    from ray.serve._private import replica_result
    from ray.serve._private.request_router.replica_wrapper import RunningReplica

    assert "self._actor_id: " in inspect.getsource(replica_result.gRPCReplicaResult)
    assert "self._obj_ref_gen = " in inspect.getsource(replica_result.ActorReplicaResult)
    assert isinstance(RunningReplica.actor_id, property)


def test_a_router_can_be_told_that_requests_wait() -> None:
    from ray.serve._private import router

    manager = router.RouterMetricsManager
    for name in ("inc_num_queued_requests", "dec_num_queued_requests", "push_autoscaling_metrics_to_controller"):
        assert list(inspect.signature(getattr(manager, name)).parameters) == ["self"]
    assert "curr_num_replicas" in inspect.signature(manager.should_send_scaled_to_zero_optimized_push).parameters
    assert "self._metrics_manager = " in inspect.getsource(router.AsyncioRouter)
    assert isinstance(router.Router.event_loop, property)


def test_a_handle_can_be_given_a_router_that_knows_one_replica() -> None:
    from ray.serve._private import router
    from ray.serve._private.request_router.common import PendingRequest
    from ray.serve._private.request_router.replica_wrapper import RunningReplica
    from ray.serve.handle import DeploymentHandle

    wanted = {"init_options", "handle_options", "_router", "_request_counter", "_handle_id"}
    assert wanted <= set(inspect.signature(DeploymentHandle.__init__).parameters)
    assert "router.assign_request(" in inspect.getsource(DeploymentHandle._remote)
    assert {"args", "kwargs", "metadata"} <= set(inspect.signature(PendingRequest).parameters)
    assert list(inspect.signature(RunningReplica.try_send_request).parameters) == ["self", "pr", "with_rejection"]
    assert hasattr(router.SingletonThreadRouter, "_wrap_asyncio_call_in_future")
    assert "self._asyncio_loop = " in inspect.getsource(router.CurrentLoopRouter)
    completion = inspect.signature(router.AsyncioRouter._register_completion_callback).parameters
    assert list(completion) == ["self", "result", "replica", "pr"]
    assert "self._request_router_initialized" in inspect.getsource(router.AsyncioRouter.__init__)


def test_the_replica_set_is_another_dictionary_after_every_change() -> None:
    from ray.serve._private.request_router.request_router import RequestRouter

    assert "self._replicas = new_replicas" in inspect.getsource(RequestRouter)
