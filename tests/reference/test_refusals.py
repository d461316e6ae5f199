"""What the reference refuses, by messages that name the argument and what is accepted."""

from typing import Any

import numpy as np
import pytest
import torch

import reference
from tests.helpers import small_networks
from tests.helpers.small_networks import B, I, T, assert_refused, tensor, weights_of

DTYPE = torch.float64


@pytest.mark.parametrize(("name", "changed"), small_networks.bad_networks(DTYPE))
def test_a_network_refuses(name, changed):
    assert_refused(lambda: reference.layers(**small_networks.right_network(DTYPE) | changed), name)


@pytest.mark.parametrize(("name", "changed"), small_networks.bad_recurrences(DTYPE))
def test_a_recurrence_refuses(name, changed):
    right = small_networks.right_recurrence(DTYPE)
    assert_refused(lambda: reference.recurrence(**right | changed), name)


def test_an_unknown_nonlinearity_is_refused():
    x, weights = tensor(T, B, I), weights_of("rnn_tanh")
    assert_refused(lambda: reference.rnn(x, weights, nonlinearity="elu"), "nonlinearity")


def test_lengths_may_be_numpy_arrays():
    x, weights, lengths = tensor(T, B, I), weights_of("gru"), np.array([4, 1, 2])
    given: Any
    expected, _ = reference.gru(x, weights, lengths=[4, 1, 2])
    for given in (lengths, list(lengths), tuple(lengths), lengths.astype(np.uint8)):
        assert torch.equal(reference.gru(x, weights, lengths=given)[0], expected)
