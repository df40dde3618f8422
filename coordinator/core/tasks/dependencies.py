"""Dependencies between tasks: which are open, and whether a new one would close a circle."""

from collections.abc import Mapping, Sequence


def find_cycle(task_id: str, depends_on: Sequence[str], edges: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The circle that a new task would close, as `[task, dependency, …, task]`; None when there is none.

    `edges` tells what the tasks reachable from `depends_on` depend on themselves.
    """
    came_from = dict.fromkeys(depends_on, task_id)
    stack = list(depends_on)
    while stack:
        current = stack.pop()
        if current == task_id:
            path = [task_id]
            while (current := came_from[current]) != task_id:
                path.append(current)
            return [task_id, *reversed(path)]
        for dependency in edges.get(current, ()):
            if dependency not in came_from:
                came_from[dependency] = current
                stack.append(dependency)
    return None
