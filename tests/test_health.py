"""How an acquirer answers, as a worker sees it: a minute, and longer back where little is asked."""

from switch.payments.health import FORGET_S, WINDOW_S, Answers
from switch.payments.routing import HEALTH_SAMPLES


def test_a_minute_of_requests_is_counted_and_older_ones_are_forgotten() -> None:
    answers = Answers()
    for second in range(300):
        answers.note(float(second), second % 2 == 0)
    asked, answered = answers.counts(299.0)
    assert WINDOW_S <= asked <= WINDOW_S + 10 and abs(answered * 2 - asked) <= 1


def test_little_traffic_is_looked_at_for_longer_until_it_says_something() -> None:
    answers = Answers()
    for number in range(100):
        answers.note(number * 20.0, number >= 90)
    asked, answered = answers.counts(99 * 20.0)
    assert HEALTH_SAMPLES <= asked <= HEALTH_SAMPLES + 1 and answered == 10


def test_what_is_ten_minutes_old_says_nothing_any_more() -> None:
    answers = Answers()
    for number in range(HEALTH_SAMPLES):
        answers.note(float(number), False)
    assert answers.counts(FORGET_S) == (HEALTH_SAMPLES, 0)
    assert answers.counts(FORGET_S + HEALTH_SAMPLES) == (0, 0)


def test_an_acquirer_is_well_again_when_the_few_that_try_it_are_answered() -> None:
    answers = Answers()
    for number in range(200):
        answers.note(number * 0.1, False)
    for number in range(HEALTH_SAMPLES + 5):
        answers.note(100.0 + number * 5.0, True)
    asked, answered = answers.counts(100.0 + (HEALTH_SAMPLES + 4) * 5.0)
    assert asked == answered >= HEALTH_SAMPLES
