"""`python -m tests.codec_bench`: what messages cost on the way of one authorization, and the codec against pyiso8583 in the same run.

A pair is a 16-field 0100 and its 16-field 0110, each written and read. pyiso8583 is timed bare, without our checks on top. Rounds of both
sides alternate and the best of each counts, so that a busy machine slows both or neither. The last line is one JSON object.
"""

import json
import sys
import timeit
from collections.abc import Callable
from typing import Any

import iso8583

from messages.codec import _plan, decode, encode, reference_decode, reference_encode
from messages.dialect import answer_fault, load, match_key
from messages.framing import Deframer, frame
from messages.masking import mask

DIALECT = load("iso87_ascii")
SPEC = _plan(DIALECT).spec
RATIO_MAX = 0.20
REQUEST = {"0": "0100", "2": "4111111111111111", "3": "000000", "4": "000000012500", "7": "1123091500", "11": "000123", "12": "101500", "13": "1123",
           "14": "2812", "18": "5411", "22": "012", "25": "00", "32": "12345678901", "37": "632709000123", "41": "TERM0001", "42": "MERCHANT0000001", "49": "978"}
ANSWER = {"0": "0110", "2": "4111111111111111", "3": "000000", "4": "000000012500", "7": "1123091500", "11": "000123", "12": "101500", "13": "1123",
          "15": "1123", "25": "00", "32": "12345678901", "37": "632709000123", "38": "A1B2C3", "39": "00", "41": "TERM0001", "42": "MERCHANT0000001", "49": "978"}
CHIP = {**REQUEST, "23": "001", "35": "4111111111111111D30122011234", "52": "0123456789ABCDEF", "55": "9F2608A1B2C3D4E5F60718950500000080009A03261125E10A9F3501225F2A020156"}


def best(work: Callable[[], object], number: int) -> float:
    return timeit.timeit(work, number=number) / number * 1e6


def compare(rounds: int = 7, number: int = 2_000) -> dict[str, Any]:
    """Microseconds per pair of each side, the best of the rounds, and their ratio."""
    wires = [reference_encode(DIALECT, message) for message in (REQUEST, ANSWER)]
    documents = [{("t" if name == "0" else name): value for name, value in message.items()} for message in (REQUEST, ANSWER)]
    for message, wire in zip((REQUEST, ANSWER), wires, strict=True):
        for _ in range(5):
            assert encode(DIALECT, message) == wire and decode(DIALECT, wire) == message == reference_decode(DIALECT, wire)

    def compiled() -> None:
        encode(DIALECT, REQUEST), decode(DIALECT, wires[0]), encode(DIALECT, ANSWER), decode(DIALECT, wires[1])

    def reference() -> None:
        iso8583.encode(documents[0], SPEC), iso8583.decode(wires[0], SPEC), iso8583.encode(documents[1], SPEC), iso8583.decode(wires[1], SPEC)

    taken = [(best(reference, number // 10), best(compiled, number)) for _ in range(rounds)]
    ours, theirs = min(pair for _, pair in taken), min(pair for pair, _ in taken)
    return {"pair_us_reference": round(theirs, 2), "pair_us_compiled": round(ours, 2), "ratio": round(ours / theirs, 3)}


def parts() -> dict[str, float]:
    """Microseconds of each piece of work on messages, in the order of an authorization."""
    wire = encode(DIALECT, ANSWER)
    framed, deframer = frame(DIALECT.framing, wire), Deframer(DIALECT.framing)
    work: dict[str, Callable[[], object]] = {
        "match key": lambda: match_key(DIALECT, REQUEST), "mask 0100": lambda: mask(DIALECT, REQUEST), "mask 0100, chip": lambda: mask(DIALECT, CHIP),
        "encode 0100": lambda: encode(DIALECT, REQUEST), "encode 0100, chip": lambda: encode(DIALECT, CHIP), "frame": lambda: frame(DIALECT.framing, wire),
        "deframe": lambda: deframer.feed(framed), "decode 0110": lambda: decode(DIALECT, wire),
        "does it answer": lambda: answer_fault(DIALECT, REQUEST, ANSWER), "mask 0110": lambda: mask(DIALECT, ANSWER),
    }
    for each in work.values():
        best(each, 10)
    return {name: min(best(each, 5_000) for _ in range(5)) for name, each in work.items()}


def main() -> int:
    for name, taken in parts().items():
        print(f"{name:20}{taken:7.2f} us")
    result = compare()
    if result["ratio"] > RATIO_MAX:
        print(f"FAILED: ratio {result['ratio']} is over {RATIO_MAX}")
    print(json.dumps(result))
    return int(result["ratio"] > RATIO_MAX)


if __name__ == "__main__":
    sys.exit(main())
