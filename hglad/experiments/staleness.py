"""Why a result is missing: it is new, or the one that is there was made by older algorithms."""

from functools import cached_property

from hglad.evaluation.sets import images_left_out
from hglad.experiments.store import Store
from hglad.experiments.tasks import Task
from hglad.experiments.versions import Version, asked, differences, first
from hglad.provenance import records

NEW = "new"
DAMAGED = "its file was damaged"
LEFT_OUT = "its images were left out"


class Reasons:
    """Tells why the results of tasks are missing from a store, which is read once.

    A result says which request it answers and by which versions of the algorithms. Those from before that was
    recorded are the ones of version 1, the first of every component.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    @cached_property
    def _made(self) -> dict[str, dict[str, Version]]:
        """Versions behind the newest result of every request."""
        found = [record for record in records(self.store.root) if record["request"] and record["algorithms"]]
        found.sort(key=lambda record: record["started"] or "")
        return {record["request"]: record["algorithms"] for record in found}

    def why(self, task: Task) -> str:
        """Why `task`, which is missing, is to be computed: one of the above or "search version 1, now 2"."""
        if not isinstance(task, Task):  # a notebook or a page, whose results may have changed
            return NEW
        if task.place(self.store).exists():
            return LEFT_OUT if images_left_out(task.place(self.store).parent) else DAMAGED
        made = self._made.get(task.request)
        if made is None and task.place(self.store, first).is_file():
            made = {component: first(component) for component in asked(task.key_with)}
        return "; ".join(differences(made or {})) or NEW
