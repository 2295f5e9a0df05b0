"""The speed of a run does not contain the time in which its programs are compiled."""

from kdjax.train.run.throughput import Throughput


def test_dispatches_during_which_a_program_is_compiled_do_not_count():
    throughput = Throughput()
    # (programs that are started, images and seconds of the dispatch that ends afterwards)
    for started, images, seconds in (
        (("full", "full"), 10, 60.0),
        (("full",), 10, 2.0),
        (("short",), 10, 50.0),  # The next program is compiled while this dispatch is waited for.
        ((), 5, 1.0),
        (("full",), 0, 0.0),
        (("short",), 10, 2.0),
    ):
        for program in started:
            throughput.start(program)
        throughput.add(images, seconds)
    assert throughput.images_per_second == 25 / 5


def test_nothing_is_known_before_anything_counts():
    throughput = Throughput()
    throughput.start("full")
    throughput.add(10, 60.0)
    assert throughput.images_per_second == 0.0
