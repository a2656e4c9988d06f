"""Ranges: streamed, from real values, by what reaches the output."""

import numpy as np
import pytest
from edgeae_export.graph.layer import multiply_adds
from edgeae_export.int8.calibration import BATCH, BINS, calibrate
from edgeae_export.int8.placement import find_sites
from edgeae_export.int8.ranges import (
    INPUTS_PER_GROUP,
    MAX_TRIALS,
    MAX_WORK,
    SCHEDULES,
    all_starting_ranges,
    output_error,
    schedule,
    search_ranges,
    starting_ranges,
)
from edgeae_export.targets import PRESETS
from edgeae_runtime import InputError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.export.graphs import graph, weights

RNG = np.random.default_rng(1)
TARGET = PRESETS["x86-vnni"]


def layer(last="Relu"):
    nodes = [("Conv", ["x", "w"], ["c"], {}), (last, ["c"], ["h"], {}), ("Conv", ["h", "v"], ["y"], {})]
    return graph(nodes, [4, 5, 5], {"w": weights(RNG, 8, 4, 3, 3), "v": weights(RNG, 4, 8, 1, 1)})


def test_extremes_are_those_of_all_batches():
    x = weights(RNG, 2 * BATCH + 5, 4, 5, 5)
    x[-1] *= 50  # only the last, short batch holds the extremes
    histogram = calibrate(layer(), ["x", "h"], x)
    assert (histogram["x"].low, histogram["x"].high) == (x.min(), x.max())
    assert histogram["h"].low == 0
    assert histogram["x"].counts.sum() == x.size


@settings(max_examples=30, deadline=None)
@given(percent=st.floats(50, 99), seed=st.integers(0, 50), positive=st.booleans())
def test_percentiles_are_numpys_within_a_bin(percent, seed, positive):
    x = weights(np.random.default_rng(seed), 64, 4, 5, 5)
    x = np.abs(x) if positive else x
    x[0, 0, 0, 0] = 0 if positive else x.min()
    histogram = calibrate(layer(), ["x"], x)["x"]
    low, high = histogram.percentile(percent)
    width = (histogram.high - histogram.low) / BINS
    if positive:
        counted = x[x >= width]
        assert low == 0
        assert abs(high - np.percentile(counted, percent)) < 3 * width + 0.01 * high
    else:
        assert abs(low - np.percentile(x, (100 - percent) / 2)) < 3 * width + 0.01 * abs(low)


def test_a_constant_activation_has_a_range():
    histogram = calibrate(layer(), ["x"], np.zeros((3, 4, 5, 5), np.float32))["x"]
    assert histogram.percentile(99.0) == (0, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(value):
    x = weights(RNG, 3, 4, 5, 5)
    x[1, 2, 3, 3] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        calibrate(layer(), ["h"], x)


def test_no_inputs_are_refused():
    with pytest.raises(InputError, match="no calibration inputs"):
        calibrate(layer(), ["h"], weights(RNG, 0, 4, 5, 5))


def test_logits_are_cut_where_the_sigmoid_saturates():
    nodes = [("Conv", ["x", "w"], ["logits"], {}), ("Sigmoid", ["logits"], ["y"], {})]
    model = graph(nodes, [8, 5, 5], {"w": 9 * weights(RNG, 8, 8, 3, 3)})
    sites = find_sites(model)
    histograms = calibrate(model, sites.tensors, weights(RNG, 20, 8, 5, 5))
    assert histograms["logits"].high > 50
    assert starting_ranges(model, sites, histograms, 100.0)["logits",] == (-8.0, 8.0)


def test_the_search_lowers_the_error_of_the_output_and_never_widens():
    model, x = layer(), weights(RNG, 200, 4, 5, 5)
    x[0, 0, 0, 0] = 300  # an outlier: the observed range is far too wide for all the others
    sites = find_sites(model)
    histograms = calibrate(model, sites.tensors, x)
    error = output_error(model, sites, TARGET, x[1:])
    starts = all_starting_ranges(model, sites, histograms)
    widest = starts[0]
    ranges, least = search_ranges(model, sites, TARGET, x[1:], SCHEDULES[0], starts)
    assert least == error(ranges) < 0.1 * error(widest)
    assert all(ranges[g][0] >= widest[g][0] and ranges[g][1] <= widest[g][1] for g in sites.groups)


@given(groups=st.integers(1, 500), available=st.integers(1, 10**6))
def test_a_search_stays_within_its_budget_and_has_inputs_enough(groups, available):
    model = layer()
    steps, count = schedule(model, groups, available)
    trials = groups * sum(map(len, steps))
    assert count <= available
    assert trials <= MAX_TRIALS
    assert trials * count * multiply_adds(model) <= MAX_WORK
    assert not steps or count >= INPUTS_PER_GROUP * groups
    assert schedule(model, 1, 2)[0] == SCHEDULES[0]


def test_the_range_of_least_error_clips_what_is_rare():
    histogram = calibrate(layer(), ["x"], RNG.laplace(size=(2000, 4, 5, 5)).astype(np.float32))["x"]
    low, high = histogram.least_error()
    assert high < 0.95 * histogram.high
    assert low > 0.95 * histogram.low
    calm = calibrate(layer(), ["x"], RNG.random((200, 4, 5, 5), np.float32) - np.float32(0.5))["x"]
    assert calm.least_error() == pytest.approx((calm.low, calm.high), rel=0.05)  # nothing is rare in uniform values
