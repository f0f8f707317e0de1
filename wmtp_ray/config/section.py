"""The base of every section of a configuration, and the kinds of numbers that its fields share. Holds no key itself."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0.0)]


def _whole_where_it_is(passes: float) -> float:
    """Return 2 for 2.0: whole passes are counted in integers, as they always were in plans."""
    return int(passes) if passes.is_integer() else passes


Epochs = Annotated[float, Field(gt=0.0), AfterValidator(_whole_where_it_is)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, numbers are finite, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
