"""Which tasks a plan holds when several have one result."""

from replacing import replace

from hglad.experiments.evaluation_task import EvaluateTask
from hglad.experiments.runner import required
from hglad.settings import DataSettings, TrainingSettings

ONE_EPOCH = TrainingSettings(epochs=1, lr=0.01, schedule="constant", ema_decay=None)


def test_a_variant_that_is_a_run_of_the_main_table_does_not_mark_its_rows():
    usual = EvaluateTask(DataSettings("digits"), "random", 1, 0, "small", {"name": "convnet"}, 1, ONE_EPOCH)
    assert [task.variant for task in required([usual, replace(usual, variant="from real images")])] == [None]
