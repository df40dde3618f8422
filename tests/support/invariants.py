"""The invariants of a machine between two transactions. For tests: checks everything on every call."""

from broker.protocol.status import Status
from coordinator.core.budgets.account import Account
from coordinator.core.llms.llm import LLM
from coordinator.core.machine import Machine
from coordinator.core.scheduling.aging import early
from coordinator.core.scheduling.lane import Lane, late
from coordinator.core.tasks.task import Task, meets


def check_invariants(machine: Machine) -> None:
    """Raises AssertionError when the machine contradicts itself, or leaves a free slot beside a task for it."""
    for task in machine.state.tasks.values():
        _check_task(machine, task)
    for llm in machine.state.llms.values():
        _check_llm(machine, llm)
    for lane in machine.state.ready.lanes():
        _check_lane(machine, lane)
    for name in machine.state.limits.names():
        _check_limit(machine, name)
    for account in machine.state.budgets.accounts.values():
        _check_account(machine, account)


def check_forgotten(machine: Machine) -> None:
    """Raises AssertionError when, after `forget`, memory holds a task that is neither in hand nor in its lane."""
    for task in machine.state.tasks.values():
        assert task.in_hand or task in machine.state.ready, f"{task.id} is {task.status} and still in memory"


def _check_task(machine: Machine, task: Task) -> None:
    told = f"{task.id}, {task.status}"
    assert machine.state.tasks[task.id] is task, told
    assert 0 <= task.starts <= task.spec.max_attempts, told
    assert task.starts <= task.attempt, told
    assert task.waiting_on >= 0, told
    assert (task.finished_at is not None) == task.status.is_final, told
    assert (task.error is not None) == (task.status is Status.FAILED), told
    assert (task in machine.state.ready) <= (task.status is Status.PENDING), told
    numbers = [attempt.attempt for attempt in task.attempts]
    assert numbers == sorted(set(numbers)), f"{told}: attempts {numbers}"
    completed = [attempt for attempt in task.attempts if attempt.outcome == "completed"]
    assert task.status is not Status.COMPLETED or completed or task.spec.is_group, told
    told_in_time = task.due is None or task.overdue or machine.state.next_due <= task.due
    assert task.status.is_final or told_in_time, f"{told}, and nobody will be told that it is overdue"
    match task.status:
        case Status.BLOCKED:
            assert task.waiting_on or task.wake_at is not None or task.waits_for, f"{told}, by nothing"
            in_time = task.wake_at is None or machine.state.next_wake <= task.wake_at
            assert task.waiting_on or in_time, f"{told}, and overslept"
        case Status.PENDING:
            assert task.waiting_on == 0, told
            assert task.wake_at is None, told
            assert not task.spec.is_group, told
            assert task.llm is None, told
            known = any(lane.key == task.lane for lane in machine.state.ready.lanes())
            assert known != machine.state.ready.is_exhausted(task.lane), f"{told}, in no lane, or in one too many"
        case Status.ASSIGNED:
            assert _holders(machine, task.id) == [(task.llm, None)], told
            assert not task.parked, told
        case Status.IN_PROGRESS if task.spec.is_group:
            assert _holders(machine, task.id) == [], told
            assert machine.state.next_wake <= (task.wake_at or 0), f"{told}, and overslept"
        case Status.IN_PROGRESS:
            assert _holders(machine, task.id) == [(task.llm, task.instance)], told
        case Status.INPUT_REQUIRED:
            assert _holders(machine, task.id) == ([(task.llm, task.instance)] if task.in_hand else []), told
            assert task.open_questions, f"{told}, and asks nothing"
            assert task.parked == task.in_hand, told
    assert task.waits_for is None or task.status in (Status.BLOCKED, Status.INPUT_REQUIRED), told
    assert task.reserved_tokens is None or task.in_hand, f"{told}, and reserves something"
    assert (task.status is Status.INPUT_REQUIRED) == (task.asking_since is not None) == bool(task.open_questions), told


def _holders(machine: Machine, task_id: str) -> list[tuple[str, str | None]]:
    """Each LLM that has the task, with the instance that holds it; None when it is not claimed."""
    claimed = [
        (name, i.id) for name, llm in machine.state.llms.items() for i in llm.instances.values() if task_id in i.held
    ]
    return [*claimed, *((name, None) for name, llm in machine.state.llms.items() if task_id in llm.unclaimed)]


def _check_llm(machine: Machine, llm: LLM) -> None:
    for instance in llm.instances.values():
        for task_id in instance.held:
            task = machine.state.tasks[task_id]
            assert task.status in (Status.IN_PROGRESS, Status.INPUT_REQUIRED), f"{task_id} at {llm.name}"
            assert task.parked == (task_id in instance.parked), f"{task_id} at {llm.name}"
            assert (task_id in llm.runs) == (task_id not in instance.parked), f"{task_id} at {llm.name}"
        assert instance.parked <= instance.held, llm.name
    for task_id in llm.unclaimed:
        assert machine.state.tasks[task_id].status is Status.ASSIGNED, f"{task_id} at {llm.name}"
    counted = llm.free
    llm.count()
    assert llm.free == counted, f"{llm.name} has {llm.free} free slots, not {counted}"


def _check_limit(machine: Machine, name: str) -> None:
    limit, members = machine.state.limits.add(name), machine.state.limits.members(name)
    assert all(llm.rate_limit is limit for llm in members.values()), name
    tasks = {task_id: parked for llm in members.values() for task_id, parked in llm.tasks().items()}
    assert limit.runs.keys() == {task_id for task_id, parked in tasks.items() if not parked}, name
    assert limit.parked.keys() == {task_id for task_id, parked in tasks.items() if parked}, name
    assert limit.room is None or all(llm.free <= limit.room for llm in members.values()), name
    assert not limit.is_closed or limit.room == 0, name
    for llm in members.values():
        assert llm.was_available == llm.available, f"{llm.name} is available: {llm.available}"


def _check_account(machine: Machine, account: Account) -> None:
    told = f"{account} since {account.key.since}"
    for task_id in account.holds:
        task = machine.state.tasks[task_id]
        assert task.in_hand, f"{told} reserves for {task_id}, which is {task.status}"
        assert account.holds[task_id].parked == task.parked, f"{told} for {task_id}"
    holds = account.holds.values()
    assert account.active == sum(not hold.parked for hold in holds), told
    assert account.taken_nanos == sum(hold.taken_nanos for hold in holds), told
    assert account.taken_tokens == sum(hold.taken_tokens for hold in holds), told
    assert account.used_nanos == sum(hold.used_nanos for hold in holds), told
    assert account.used_tokens == sum(hold.used_tokens for hold in holds), told
    assert min(account.spent_nanos, account.spent_tokens, account.spent_runs, account.unknown_runs) >= 0, told


def _check_lane(machine: Machine, lane: Lane) -> None:
    places = set(lane.order)
    for task in lane.members.values():
        assert machine.state.tasks.get(task.id) is task, f"{task.id} in the lane {lane.key!r} is not the one in memory"
        assert task.status is Status.PENDING, f"{task.id} in the lane {lane.key!r} is {task.status}"
        assert task.lane == lane.key, f"{task.id} is in the lane {lane.key!r}"
        assert task.rank <= lane.complete_to, f"{task.id} ranks below what the lane {lane.key!r} knows"
        assert {(rank, task.id) for rank in (task.rank, early(task), late(task))} & places, (
            f"{task.id} has no place in {lane.key!r}"
        )
    assert len(places) == len(lane.members), f"the lane {lane.key!r} has places for tasks that are not there"
    assert lane.backlog == sum(task.size for task in lane.members.values()), f"the backlog of the lane {lane.key!r}"
    for task in machine.state.tasks.values():
        if task.lane == lane.key and task.status is Status.PENDING and task.id not in lane.members:
            assert task.rank > lane.complete_to, f"{task.id} waits, and its lane does not know"
    admitted = [llm for llm in machine.state.llms.values() if meets(llm.offers(), lane.demands)]
    assert lane.eligible == {llm.name: llm for llm in admitted}, f"lane {lane.key!r}"
    assert lane.reserves == {llm.name: llm for llm in admitted if llm.properties.reserve}, f"lane {lane.key!r}"
    free = {llm.name for llm in admitted if llm.free and not llm.properties.reserve}
    assert {llm.name for llm in lane.all_free()} == free, f"free for the lane {lane.key!r}"
    assert lane.finds_all_free(), f"an LLM that the lane {lane.key!r} would not find"
    free |= {name for name, llm in lane.reserves.items() if llm.free}
    if lane.members and free:
        assert machine.state.ready.is_held(lane), f"tasks wait in the lane {lane.key!r} while {free} have free slots"
