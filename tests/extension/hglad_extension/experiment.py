"""Whether pixels that were optimized twice as long train a better network."""

from hglad.experiments.plans import Experiment, evaluation_of, experiment
from hglad.search.distillation import DistillationSettings
from hglad.settings import Profile


@experiment("pixels in sets.searches", lambda profile: "pixels" in profile.sets.searches)
def twice_the_steps(profile: Profile) -> Experiment:
    """Pixels at the profile's steps and at twice as many, with its first objective and ipc."""
    objective, ipc, usual = profile.sets.objectives[0], profile.sets.ipc[0], profile.search.steps
    evaluations = []
    for steps in (usual, 2 * usual):
        for seed in profile.sets.seeds:
            changes = {"search.steps": steps}
            settings = DistillationSettings.of(profile, objective, "pixels", ipc, seed, changes)
            evaluations.append(evaluation_of(profile, settings, variant=f"{steps} steps"))
    return Experiment(profile, evaluations)
