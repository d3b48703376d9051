"""The file beside a distilled set that a stopped run goes on from, and the time that all its parts took."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from hglad.errors import HgladError
from hglad.evaluation.sets import to_uint8
from hglad.provenance import Stopwatch
from hglad.search.state import SearchState, load_state, save_state
from hglad.storage import read_metadata, read_tensors, spared

SAVE_EVERY = 30  # seconds between two saved states


class Checkpoint:
    """Saves the state now and then, counts the time over all parts of a run, collects kept iterates.

    Args:
        file: where the state is kept; `None` keeps none.
        key: fingerprint of the run.
        keep_iterates: collect the images of every measured iterate.
        device: where the run computes.
    """

    def __init__(self, file: Path | None, key: str, keep_iterates: bool, device: str):
        self.file, self.key, self.keep, self.device = file, key, keep_iterates, device
        self.kept: list[Tensor] = []
        self.newest: SearchState | None = None
        self.before, self.watch, self.saved = 0.0, Stopwatch(device), time.monotonic()
        self.stage_seconds: list[float] = []
        """Time of each stage so far, over all parts of the run."""
        self.noted = self.saved

    def load(self) -> SearchState | None:
        """The saved state of this very run, where there is one.

        Raises:
            HgladError: a state of another run, or a damaged one.
        """
        if self.file is None or not self.file.is_file():
            return None
        metadata = read_metadata(self.file)
        if metadata.get("key") != self.key:
            raise HgladError(
                f"{self.file} is the state of another run ({metadata.get('key', 'unknown')}): expected "
                f"{self.key}; give another folder, or start over with --restart"
            )
        state = load_state(self.file, self.device)
        self.before = float(metadata["seconds"])
        self.stage_seconds = json.loads(metadata["stage_seconds"])
        if self.keep:
            self.kept = list(read_tensors(self.file)["iterates"])
        return state

    def note(self, state: SearchState, check: Callable[[], None]) -> None:
        """Keep the iterate where asked to; `check` and save the state when the last one is old enough."""
        now = time.monotonic()
        self.stage_seconds += [0.0] * (state.stage + 1 - len(self.stage_seconds))
        self.stage_seconds[state.stage] += now - self.noted
        self.noted = now
        if self.keep and state.decoded is not None:
            self.kept.append(to_uint8(state.decoded).cpu())
        self.newest = state
        if self.file is not None and now - self.saved > SAVE_EVERY:
            check()
            self._save(state)

    def _save(self, state: SearchState) -> None:
        if not state.finite:
            return  # the next step says so, and the last good state stays
        extra = {"iterates": torch.stack(self.kept)} if self.keep else {}
        metadata = {"key": self.key, "seconds": str(self.seconds)}
        with spared(self.file):
            save_state(self.file, state, extra, metadata | {"stage_seconds": json.dumps(self.stage_seconds)})
        self.saved = time.monotonic()

    @contextmanager
    def kept_on_error(self) -> Iterator[None]:
        """Save the newest state when the run breaks, if it is good."""
        try:
            yield
        except HgladError:
            if self.file is not None and self.newest is not None:
                self._save(self.newest)
            raise

    @property
    def seconds(self) -> float:
        """Time over all parts of the run."""
        return self.before + self.watch.seconds

    def iterates(self) -> Tensor | None:
        """Images of the measured iterates, uint8 (iterate, n, ch, height, width), where they are kept."""
        return torch.stack(self.kept) if self.keep else None

    def provenance(self) -> dict:
        """Provenance of the run."""
        return self.watch.provenance() | {"seconds": round(self.seconds, 2)}

    def clear(self) -> None:
        """Remove the file."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
