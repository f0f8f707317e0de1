import threading
from concurrent.futures import ThreadPoolExecutor

from wmtp_ray.evaluation.judge.gate import Gate


def test_a_visit_knows_whether_it_met_another():
    gate = Gate()
    with gate.together() as first, gate.together() as second:
        pass
    with gate.together() as third:
        pass
    assert (first.overlapped, second.overlapped, third.overlapped) == (True, True, False)


def test_a_visit_that_ends_before_another_begins_did_not_meet_it():
    gate = Gate()
    with gate.together() as first:
        pass
    with gate.together() as second:
        pass
    assert not first.overlapped
    assert not second.overlapped


def test_who_is_alone_meets_nobody_and_everyone_gets_in():
    gate, inside, worst = Gate(), [0], []
    lock = threading.Lock()

    def visit(number: int) -> None:
        alone = number % 3 == 0
        with gate.alone() if alone else gate.together():
            with lock:
                inside[0] += 1
            threading.Event().wait(0.001)
            with lock:
                if alone:
                    worst.append(inside[0])
                inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(60)))
    assert worst == [1] * 20
    assert inside == [0]
