"""Places where a list of nodes may be cut, and the nodes of each piece."""

import pytest

from diffoundry.runtime.engines.cutting import cut_places, pack, piece_limit


@pytest.mark.parametrize(
    ("spans", "places"),
    [
        ([], [1, 2, 3, 4, 5]),
        ([(0, 1)], [2, 3, 4, 5]),
        ([(0, 5)], []),
        ([(0, 2), (1, 3), (4, 5)], [4]),
        ([(2, 4), (2, 3)], [1, 2, 5]),
    ],
)
def test_no_cut_crosses_a_span(spans, places):
    assert list(cut_places(6, spans)) == places


def test_pieces_hold_what_fits_and_shared_weights_once():
    held = [{"a": 4}, {"a": 4, "b": 2}, {"c": 9}, {"d": 1}, {"a": 4}]

    def weights(begin, end):
        return {name: size for some in held[begin:end] for name, size in some.items()}

    assert pack([1, 2, 3, 4], 5, weights, 6) == [(0, 2, 6), (2, 3, 9), (3, 5, 5)]
    assert pack([2, 3], 5, weights, 1) == [(0, 2, 6), (2, 3, 9), (3, 5, 5)]
    assert pack([1, 2, 3, 4], 5, weights, 16) == [(0, 5, 16)]
    assert pack([], 5, weights, 1) == [(0, 5, 16)]


def test_a_graph_is_whole_where_its_weights_fit_three_times():
    assert piece_limit(None, 10**9) is None
    assert piece_limit(800, 100) is None
    assert piece_limit(792, 100) == 99
