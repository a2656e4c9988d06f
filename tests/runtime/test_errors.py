"""What other libraries' errors say, as it may stand in a sentence of ours."""

import pytest
from edgeae_runtime.arrays import as_array
from edgeae_runtime.errors import InputError, gist


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("It failed.", "It failed"),
        ("  It\n\n  failed\tbadly ", "It failed badly"),
        ("\x1b[31;1mIt failed\x1b[0m", "It failed"),
        ("bell \x07, half \udcff", r"bell \x07, half \udcff"),
        ("", "ValueError"),
    ],
)
def test_an_error_is_told_in_one_printable_line(said, told):
    assert gist(ValueError(said)) == told


@pytest.mark.parametrize("most", [1, 20, 200])
def test_it_is_short_and_the_cut_is_seen(most):
    found = gist(ValueError("\x1b" * 1_000_000), most)
    assert len(found) == most
    assert found.endswith("…")


def test_what_another_library_raised_is_told_in_one_paragraph():
    class Broken:
        def __array__(self, *arguments, **named):
            raise RuntimeError("first\n  second \x1b[1mline\x1b[0m.")

    with pytest.raises(InputError, match=r"failed: first second line\.$"):
        as_array(Broken(), "images")
