"""Keep a folder of results small: leave out the images that no page shows.

A distilled set of 100 images of 32 px takes 2 MB; tables and figures read its card and its evaluations.
What is left out is made again, the same, where a result needs it.
"""

from pathlib import Path

from hglad.evaluation.sets import IMAGES
from hglad.experiments.definitions import plan, studied
from hglad.experiments.profile import Profile
from hglad.experiments.runner import missing_tasks, sets_behind
from hglad.experiments.store import Store
from hglad.experiments.tasks import DistillTask


def unneeded_images(profile: Profile, store: Store) -> list[Path]:
    """Folders of the sets that are evaluated and whose images no page of the profile shows."""
    tasks = plan(profile)
    read = sets_behind(missing_tasks(tasks, store))
    sets = [task for task in tasks if isinstance(task, DistillTask) and task.done(store)]
    return [store.set_folder(t.key) for t in sets if t.key not in read and not shown(t, profile)]


def mebibytes(folders: list[Path]) -> float:
    """Size of the images of sets."""
    files = (folder / name for folder in folders for name in IMAGES)
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**20


def shown(task: DistillTask, profile: Profile) -> bool:
    """Whether a page may show the images of a set.

    Every page shows those of the first seed only. At the first ipc: pixels, and searches of the first
    objective and of the first one that is taken apart. At the largest ipc: those of the first objective,
    pixels only where real images are shown, because there they stay near those that they started from.
    """
    settings, sets = task.settings, profile.sets
    if settings.seed != sets["seeds"][0]:
        return False
    if settings.ipc != sets["ipc"][0]:
        own = settings.objective == sets["objectives"][0] and (settings.kind != "pixels" or profile.data.show)
        return own and settings.ipc == sets["ipc"][-1]
    return settings.kind == "pixels" or settings.objective in (sets["objectives"][0], studied(profile)[0])
