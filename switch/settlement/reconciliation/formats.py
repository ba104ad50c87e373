"""The files that acquirers and banks send, as data. `clearing` reads them; nothing here runs.

A field is (name, kind) in a separated record and (name, kind, position, length) in one of fixed width; the kinds are in `clearing.KINDS`. Each record
begins with its mark. `days`: how far before and after the header's date a line's date may lie. `zone` is where the dates are dates.
Control totals are minor units summed over all currencies, refunds and debits negative.
"""

from typing import Any

FORMATS: dict[str, dict[str, Any]] = {
    "clearing_csv": {
        "document": "clearing", "starts": "H,CLEARING,1,", "separator": ",", "charset": "utf-8", "zone": "acquirer", "days": (31, 1),
        "header": ("H", (("document", "code"), ("version", "number"), ("institution", "code"), ("business_date", "date"), ("number", "number"))),
        "line": ("D", (("line_no", "number"), ("rrn", "rrn"), ("stan", "stan"), ("terminal", "code"), ("acceptor", "code"), ("approval_code", "code"),
                       ("kind", "kind"), ("amount", "decimal"), ("currency", "alpha"), ("fee", "decimal"), ("business_date", "date"),
                       ("reference", "text"))),
        "trailer": ("T", (("count", "number"), ("total", "signed"), ("fees", "number"))),
    },
    "clearing_fixed": {
        "document": "clearing", "starts": "00CLEARING01", "width": 120, "charset": "ascii", "zone": "acquirer", "days": (31, 1),
        "header": ("00", (("document", "code", 2, 8), ("version", "number", 10, 2), ("institution", "code", 12, 11), ("business_date", "compact",
                          23, 8), ("number", "number", 31, 4))),
        "line": ("10", (("line_no", "number", 2, 8), ("rrn", "rrn", 10, 12), ("stan", "stan", 22, 6), ("terminal", "code", 28, 8),
                        ("acceptor", "code", 36, 15), ("approval_code", "code", 51, 6), ("amount", "minor", 57, 12), ("kind", "sign", 69, 1),
                        ("currency", "numeric", 70, 3), ("fee", "minor", 73, 10), ("business_date", "compact", 83, 8),
                        ("reference", "text", 91, 20))),
        "trailer": ("99", (("count", "number", 2, 8), ("total", "signed", 10, 16), ("fees", "number", 26, 15))),
    },
    "statement_csv": {
        "document": "statement", "starts": "H,STATEMENT,1,", "separator": ",", "charset": "utf-8", "zone": "bank", "days": (31, 31),
        "header": ("H", (("document", "code"), ("version", "number"), ("institution", "code"), ("business_date", "date"), ("number", "number"))),
        "line": ("E", (("line_no", "number"), ("booked_on", "date"), ("business_date", "date"), ("kind", "booking"), ("amount", "decimal"),
                       ("currency", "alpha"), ("bank_reference", "code"), ("text", "text"))),
        "trailer": ("T", (("count", "number"), ("total", "signed"))),
    },
}
