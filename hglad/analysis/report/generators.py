"""The generators that the searches go through: training, samples, sweeps over their layers."""

from collections.abc import Mapping, Sequence

import pandas as pd

from hglad.analysis.report.show import Table
from hglad.analysis.report.texts import NONE, duration_text
from hglad.priors import prior_card


def prior_table(*priors: str) -> Table:
    """What the cards of generators say of their training and of their samples, a column each."""
    columns = {prior: _prior_column(prior_card(prior)) for prior in priors}
    lines = max(columns.values(), key=len)
    rows = [[line, *(column.get(line, NONE) for column in columns.values())] for line in lines]
    return Table(pd.DataFrame(rows, columns=["", *columns]))


def _prior_column(card: dict) -> dict[str, str]:
    if "quality" not in card:
        origin = f"none: weights drawn from seed {card['seed']}" if "seed" in card else "not by this project"
        return {"training": origin}
    quality, provenance = card["quality"], card["provenance"]
    samples = f"{quality['samples']:,}"
    column = {
        "training": f"{card['training']['steps']:,} steps of {card['training']['batch_size']} images, "
        f"{duration_text(provenance['seconds'])}",
        "samples that show the class asked for": f"{quality['intended_class']:.2f} % of {samples}",
        "test accuracy of a network trained on samples only": f"{quality['trained_on_samples']:.1f} %",
        "test accuracy of it trained on the real images": f"{quality['real_test_accuracy']:.1f} %",
    }
    if "frechet_distance" in quality:
        column |= {
            "Fréchet distance of samples to test images": f"{quality['frechet_distance']:.3f}",
            "Fréchet distance of training images to test images": f"{quality['frechet_distance_real']:.3f}",
        }
    return column


def sweep_numbers(sweeps: Mapping[str, tuple[pd.DataFrame, Sequence[str]]]) -> pd.DataFrame:
    """Rows of the layer sweeps of several generators, with `generator` and the name of the `split_point`."""
    parts = [
        rows.assign(
            generator=prior, split_point=rows["layer"].map(lambda layer, names=names: names[int(layer)])
        )
        for prior, (rows, names) in sweeps.items()
    ]
    return pd.concat(parts, ignore_index=True)
