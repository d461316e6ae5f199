from itertools import combinations, product

from tests.helpers.pairwise import label, pairwise


def test_every_pair_occurs_and_the_list_is_short():
    choices = {"a": [1, 2, 3], "b": "xyzw", "c": [True, False], "d": [None, (1, 2)], "e": range(5)}
    rows = pairwise(**choices)
    for one, two in combinations(choices, 2):
        assert {(row[one], row[two]) for row in rows} == set(product(choices[one], choices[two]))
    assert len(rows) <= 1.5 * 5 * 4  # the two longest need 20; all combinations are 240
    assert rows == pairwise(**choices)
    assert label({"cell": "gru", "shape": (1, 2)}) == "cell=gru-shape=(1,2)"
