"""The running digest of a file is hashlib's, whatever workers do to each other's order."""

from __future__ import annotations

import hashlib
import random
import threading
import time

import pytest

from ingot.engine.digests import HotDigest, OrderedDigest

CHUNK = 3 << 18


def chunks(count: int, seed: int) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(CHUNK + source.randrange(1000)) for _ in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_chunks_of_several_workers_are_taken_in_the_order_of_the_file(workers: int) -> None:
    data = chunks(12, seed=workers)
    ends = [sum(map(len, data[: n + 1])) for n in range(len(data))]
    digest = OrderedDigest(threading.Event(), [ends[0] - 7, ends[3], ends[-1]])
    numbers, handing_out = iter(range(len(data))), threading.Lock()

    def work() -> None:
        while True:
            with handing_out:
                number = next(numbers, None)
            if number is None:
                return
            hot = HotDigest(digest, number, memoryview(data[number]))
            for upto in range(0, len(data[number]), 100_000):
                time.sleep(random.random() / 1000)
                hot.final(upto)
            hot.close()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = b"".join(data)
    assert digest.hexdigest == hashlib.sha256(whole).hexdigest()
    marks = (ends[0] - 7, ends[3], ends[-1])
    assert digest.noted == tuple(hashlib.sha256(whole[:mark]).hexdigest() for mark in marks)


def test_bytes_are_taken_at_once_when_it_is_the_chunks_turn_and_held_back_when_it_is_not() -> None:
    first, second = chunks(2, seed=9)
    digest = OrderedDigest(threading.Event())
    early, late = HotDigest(digest, 0, memoryview(first)), HotDigest(digest, 1, memoryview(second))
    late.final(CHUNK)
    early.final(CHUNK)
    assert digest.hexdigest == hashlib.sha256(first[:CHUNK]).hexdigest()
    early.close()
    late.close()
    assert digest.hexdigest == hashlib.sha256(first + second).hexdigest()


def test_a_worker_that_waits_for_its_turn_leaves_when_the_run_stops() -> None:
    stop = threading.Event()
    digest = OrderedDigest(stop)
    waiting = threading.Thread(target=HotDigest(digest, 5, memoryview(b"x")).close)
    waiting.start()
    stop.set()
    waiting.join(10)
    assert not waiting.is_alive()
    assert digest.hexdigest == hashlib.sha256().hexdigest()
