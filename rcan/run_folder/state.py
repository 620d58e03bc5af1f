"""Where a training is: `state.json` of a checkpoint, typed."""

from typing import Annotated

from pydantic import Field, model_validator

from rcan.records import Record

__all__ = ["RunState"]


class RunState(Record):
    """All that decides how a training goes on, beside its variables; never changed, only followed by another."""

    epoch: int = Field(0, ge=0)  # epochs done
    epochs: int = Field(ge=0)  # to do
    is_finished: bool = False  # all epochs are done, or no later one was better for as long as early_stopping allows
    patches_done: int = Field(0, ge=0)  # of the epoch under way
    sums: dict[str, float] = Field(default_factory=dict)  # of loss and measures over these patches; their number
    seconds: float = 0.0  # spent on the epoch under way
    history: list[dict[str, Annotated[int, Field(ge=-(2**53), le=2**53)] | float]] = Field(
        default_factory=list
    )  # a row of history.csv for each epoch

    @model_validator(mode="after")
    def _check_together(self):
        if any(row.keys() != self.history[0].keys() for row in self.history):
            raise ValueError("history has rows of different columns.")
        if self.sums and self.sums.get("patches", 0) <= 0:
            raise ValueError("sums lacks the number of patches.")
        return self

    def after_step(self, figures, num_patches, *, seconds):
        """Return the state after a step whose patches have this mean loss and these mean measures."""
        sums = {
            name: self.sums.get(name, 0.0) + value * num_patches for name, value in {**figures, "patches": 1}.items()
        }
        patches_done, seconds = self.patches_done + num_patches, self.seconds + seconds
        return self.model_copy(update={"sums": sums, "patches_done": patches_done, "seconds": seconds})

    def after_epoch(self, row, *, is_finished):
        """Return the state after an epoch, which adds a row to the history."""
        update = {"epoch": self.epoch + 1, "history": [*self.history, row], "is_finished": is_finished}
        return self.model_copy(update={**update, "patches_done": 0, "sums": {}, "seconds": 0.0})

    def mean_figures(self):
        """Mean loss and measures over the patches of the epoch under way."""
        return {name: value / self.sums["patches"] for name, value in self.sums.items() if name != "patches"}

    @property
    def name(self):
        """Name of the folder of its checkpoint; a later state sorts after an earlier one."""
        return f"epoch_{self.epoch:06d}_{self.patches_done:09d}"
