"""A structural time-series model (level, slope and season; Harvey 1989) in JAX: Kalman filter, and its variances by maximum likelihood.

Every shape is fixed, so that all of it is compiled before the first prediction: a series is padded in front to one of LENGTHS,
and what was padded is no observation.
"""

import jax
import jax.numpy as jnp

# Series are padded to the next of these.
LENGTHS = (128, 512)
# Steps of one season; 1 is none.
SEASONS = (1, 4, 7, 12, 24)
HORIZON_MAX = 96
# Steps of Adam; the likelihood is flat long before.
FIT_STEPS = 120
LEARNING_RATE = 0.1
# Variance of a state of which nothing is known, in units of the series' own.
DIFFUSE = 1e4


def system(season):
    """Transition matrix and observation row. State: level, slope, and the last `season` - 1 seasonal parts."""
    size = 2 + season - 1
    transition = jnp.zeros((size, size)).at[0, 0].set(1.0).at[0, 1].set(1.0).at[1, 1].set(1.0)
    observed = jnp.zeros(size).at[0].set(1.0)
    if season > 1:
        transition = transition.at[2, 2:].set(-1.0)
        for i in range(3, size):
            transition = transition.at[i, i - 1].set(1.0)
        observed = observed.at[2].set(1.0)
    return transition, observed


def noise(logs, season):
    """Variances out of their logarithms: observation, and a diagonal for the states."""
    variances = jnp.exp(logs)
    states = jnp.zeros(2 + season - 1).at[0].set(variances[1]).at[1].set(variances[2])
    return variances[0], states.at[2].set(variances[3]) if season > 1 else states


def run_filter(logs, values, is_seen, season):
    """Mean negative log-likelihood, and mean and covariance of the next state."""
    transition, observed = system(season)
    observation_noise, state_noise = noise(logs, season)
    size = 2 + season - 1

    def step(carry, entry):
        mean, covariance = carry
        value, seen = entry
        projected = covariance @ observed
        variance = observed @ projected + observation_noise
        error = value - observed @ mean
        gain = jnp.where(seen, projected / variance, 0.0)
        mean = mean + gain * error
        covariance = covariance - jnp.outer(gain, projected)
        mean = transition @ mean
        covariance = transition @ covariance @ transition.T + jnp.diag(state_noise)
        loss = jnp.where(seen, 0.5 * (jnp.log(2 * jnp.pi * variance) + error**2 / variance), 0.0)
        return (mean, (covariance + covariance.T) / 2), loss

    start = (jnp.zeros(size), jnp.eye(size) * DIFFUSE)
    state, losses = jax.lax.scan(step, start, (values, is_seen))
    return losses.sum() / is_seen.sum(), state


def fit(values, is_seen, season):
    """Logarithms of the variances, by Adam on the likelihood."""

    def step(index, carry):
        logs, first, second = carry
        gradient = jax.grad(lambda at: run_filter(at, values, is_seen, season)[0])(logs)
        gradient = jnp.clip(jnp.nan_to_num(gradient), -10.0, 10.0)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9 ** (index + 1.0))
        scale = jnp.sqrt(second / (1 - 0.999 ** (index + 1.0))) + 1e-8
        return jnp.clip(logs - LEARNING_RATE * unbiased / scale, -14.0, 4.0), first, second

    logs = jnp.array([-1.0, -3.0, -6.0, -3.0])
    return jax.lax.fori_loop(0, FIT_STEPS, step, (logs, jnp.zeros(4), jnp.zeros(4)))[0]


def forecast(values, is_seen, season):
    """Means and standard deviations of the next HORIZON_MAX values, and the variances that were found."""
    logs = fit(values, is_seen, season)
    transition, observed = system(season)
    observation_noise, state_noise = noise(logs, season)

    def step(carry, _):
        mean, covariance = carry
        told = observed @ mean, jnp.sqrt(observed @ covariance @ observed + observation_noise)
        return (transition @ mean, transition @ covariance @ transition.T + jnp.diag(state_noise)), told

    _, state = run_filter(logs, values, is_seen, season)
    _, (means, deviations) = jax.lax.scan(step, state, None, length=HORIZON_MAX)
    return means, deviations, jnp.exp(logs)


def trace_all():
    """One function for each length and season, traced and ready to be compiled."""
    traced = {}
    jax.config.update("jax_enable_x64", True)
    for length in LENGTHS:
        for season in SEASONS:
            series = jax.ShapeDtypeStruct((length,), jnp.float64)
            seen = jax.ShapeDtypeStruct((length,), jnp.bool_)
            function = jax.jit(lambda values, is_seen, season=season: forecast(values, is_seen, season))
            traced[length, season] = function.lower(series, seen)
    return traced
