"""Continues a series of numbers with its trend and season."""

import time

import jax
import numpy as np
from cog import BaseModel, BaseRunner, Input

from structural import HORIZON_MAX, LENGTHS, SEASONS, trace_all

VALUES_MIN = 8
# Of a normal distribution: 80 % lie within.
WIDTH_80 = 1.2815515655


class Output(BaseModel):
    """`forecast` has three series, `mean`, `low` and `high`, of one value for each step ahead; four of five values are expected within the last two."""

    forecast: list[dict]
    observation_deviation: float
    season: int


class Runner(BaseRunner):
    def setup(self) -> None:
        hits = 0

        def count(event, **_):
            nonlocal hits
            hits += event == "/jax/compilation_cache/cache_hits"

        jax.monitoring.register_event_listener(count)
        started = time.perf_counter()
        traced = trace_all()
        traced_at = time.perf_counter()
        # What the compile cache has is only read.
        self.compiled = {key: function.compile() for key, function in traced.items()}
        seconds = time.perf_counter() - traced_at
        print(f"traced in {traced_at - started:.2f} s")
        print(f"compiled {len(self.compiled)} functions in {seconds:.2f} s, {hits} out of the cache")

    def run(
        self,
        values: list[float] = Input(description=f"The series, oldest first: {VALUES_MIN} to {LENGTHS[-1]} numbers."),
        horizon: int = Input(description="Steps ahead.", default=12, ge=1, le=HORIZON_MAX),
        season: int = Input(
            description="Steps after which the pattern comes again: 12 for months, 7 for days, 24 for hours. 1 is none.",
            default=1,
            choices=list(SEASONS),
        ),
    ) -> Output:
        if not max(VALUES_MIN, 2 * season) <= len(values) <= LENGTHS[-1]:
            least = max(VALUES_MIN, 2 * season)
            raise ValueError(f"values must hold {least} to {LENGTHS[-1]} numbers for this season, not {len(values)}")
        series = np.array(values, np.float64)
        if not np.isfinite(series).all():
            raise ValueError("values must be finite numbers")
        centre, scale = series.mean(), series.std() or 1.0
        length = next(length for length in LENGTHS if len(series) <= length)
        padded, seen = np.zeros(length), np.zeros(length, bool)
        padded[-len(series) :], seen[-len(series) :] = (series - centre) / scale, True
        means, deviations, variances = (np.asarray(each) for each in self.compiled[length, season](padded, seen))
        means, deviations = means * scale + centre, deviations * scale
        return Output(
            forecast=[
                {"series": name, "values": [round(float(value), 6) for value in values[:horizon]]}
                for name, values in (
                    ("mean", means),
                    ("low", means - WIDTH_80 * deviations),
                    ("high", means + WIDTH_80 * deviations),
                )
            ],
            observation_deviation=round(float(np.sqrt(variances[0]) * scale), 6),
            season=season,
        )
