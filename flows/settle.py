"""Put Prefect's server in order before a worker starts: the pool, the GPU limit, and runs that a stop left behind.

`python -m flows.settle`, against the server at PREFECT_API_URL, while no worker of it is alive.
"""

import contextlib
from typing import Any

from prefect import State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.states import Cancelled, Crashed
from prefect.types._datetime import now

from flows.pipeline import GPU
from flows.ui import POOL


def settle(client: SyncPrefectClient) -> None:
    """Make what the deployments need, and end the runs that nobody will end."""
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    _free_gpu(client)
    _end_left_behind(client)


def _free_gpu(client: SyncPrefectClient) -> None:
    # Prefect keeps the limit of a tag under this name. It is made once: whoever has more GPUs raises it in the UI.
    name = f"tag:{GPU}"
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    else:
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))


def _end_left_behind(client: SyncPrefectClient) -> None:
    """End runs whose worker is gone, and those that fell due while nothing was there to run them."""
    alive = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.SCHEDULED]
    chosen = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=alive)))
    for run in client.read_flow_runs(flow_run_filter=chosen, limit=200):
        assert run.state is not None
        if not run.state.is_scheduled():
            client.set_flow_run_state(run.id, Crashed(message="the worker was stopped during this run"), force=True)
        elif run.next_scheduled_start_time is not None and run.next_scheduled_start_time < now("UTC"):
            missed: State[Any] = Cancelled(name="Missed", message="fell due while `make ui` was not running")
            client.set_flow_run_state(run.id, missed, force=True)


if __name__ == "__main__":
    with get_client(sync_client=True) as client:
        settle(client)
