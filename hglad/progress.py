"""Progress bars: on a terminal only, quiet in notebooks, logs and CI."""

from tqdm import tqdm


def progress_bar(total: float, text: str, unit: str, show: bool = True, **options) -> tqdm:
    """Bar with an estimate of the time that is left; `show` False makes it silent on a terminal too."""
    return tqdm(total=total, desc=text, unit=unit, disable=None if show else True, **options)
