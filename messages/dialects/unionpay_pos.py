"""UnionPay POS terminals: TPDU and 6-byte header, BCD digits, sub-fields in DE60 to DE63, a reversal under its original's DE11. A literal.

Layout of fields as open terminal code and its captured messages show them; the acquirer's own specification decides. DE64 is made and checked
where the acquirer has a master key: keys.
"""

DIALECT = {
    "name": "unionpay_pos",
    "like": "iso87_ascii",
    "framing": ("binary2", 4096),
    # TPDU 60 destination source; then application class 60, version 31, state 0, processing request 0, software 310100
    "header": ("tpdu", "6000030000603100310100"),
    "coding": {
        "text": "latin-1", "mti": "bcd", "bitmap": "binary", "digits": "bcd", "track": "bcd",
        "binary": "binary", "length": "bcd", "pad": "right 0",
    },
    "fields": {
        "2": ("primary_account_number", "n", 19, 2),
        "3": ("processing_code", "n", 6, 0),
        "4": ("transaction_amount", "n", 12, 0),
        "11": ("systems_trace_audit_number", "n", 6, 0),
        "12": ("local_time", "n", 6, 0),
        "13": ("local_date", "n", 4, 0),
        "14": ("expiration_date", "n", 4, 0),
        "15": ("settlement_date", "n", 4, 0),
        "22": ("pos_entry_mode", "n", 3, 0),
        "23": ("card_sequence_number", "n", 3, 0, {"pad": "left 0"}),
        "25": ("pos_condition_code", "n", 2, 0),
        "26": ("pin_capture_code", "n", 2, 0),
        "27": ("approval_code_length", "n", 1, 0),
        "32": ("acquiring_institution", "n", 11, 2),
        "35": ("track_2", "z", 37, 2),
        "36": ("track_3", "z", 104, 3),
        "37": ("retrieval_reference_number", "an", 12, 0),
        "38": ("approval_code", "an", 6, 0),
        "39": ("response_code", "an", 2, 0),
        "41": ("terminal_identification", "ans", 8, 0),
        "42": ("card_acceptor_identification", "ans", 15, 0),
        "43": ("card_acceptor_name_location", "ansb", 40, 0),
        "44": ("additional_response_data", "ansb", 25, 2),
        "46": ("terminal_capabilities", "ansb", 999, 3),
        "47": ("additional_data_national", "ansb", 999, 3),
        "48": ("additional_data_private", "n", 322, 3),
        "49": ("transaction_currency", "an", 3, 0),
        "52": ("pin_block", "b", 16, 0),
        "53": ("security_control_information", "n", 16, 0),
        "54": ("additional_amounts", "an", 20, 3),
        "55": ("icc_data", "b", 1998, 3),
        "56": ("answer_text", "ansb", 999, 3),
        "57": ("terminal_data", "ansb", 999, 3),
        "58": ("reserved_national_58", "ansb", 999, 3),
        "59": ("qr_code_data", "ansb", 999, 3),
        "60": ("batch_data", "n", 17, 3),
        "61": ("original_data", "n", 29, 3),
        "62": ("message_data", "b", 1998, 3),
        "63": ("operator_and_remarks", "ansb", 163, 3),
        "64": ("message_authentication_code", "b", 16, 0),
    },
    "sub_fields": {
        "48": ("by_mti", {
            "05": ("positional", (
                ("debit_amount", "n", 12), ("debit_number", "n", 3), ("credit_amount", "n", 12), ("credit_number", "n", 3), ("balanced", "n", 1),
                ("foreign_debit_amount", "n", 12), ("foreign_debit_number", "n", 3), ("foreign_credit_amount", "n", 12),
                ("foreign_credit_number", "n", 3), ("foreign_balanced", "n", 1),
            )),
            "02": ("positional", (("tip", "n", 12),)),
            "03": ("by_length", {4: ("positional", (("count", "n", 4),))}, (
                "records", 2, (("type", "n", 2), ("trace", "n", 6), ("card_number", "n", 20), ("amount", "n", 12)))),
        }),
        "57": ("tlv", 2, 3),
        "59": ("tlv", 2, 3),
        "60": ("positional", (
            ("message_type", "n", 2), ("batch", "n", 6), ("network_management_code", "n", 3), ("reading_capability", "n", 1),
            ("chip_condition", "n", 1), ("partial_approval", "n", 1), ("account_type", "n", 3),
        )),
        "61": ("positional", (
            ("original_batch", "n", 6), ("original_trace", "n", 6), ("original_date", "n", 4), ("authorization_mode", "n", 2),
            ("authorizing_institution", "n", 11),
        )),
        "55": ("ber",),
    },
    "match": {"*": ("11", "41", "42", "60.2"), "8": ("11", "41", "42")},
    "agree": ("3", "4", "49"),
    "agree_if_present": ("2",),
    "approval_code_required": ("0110", "0210"),
    "approval_code_exempt": ("31",),
    "codes": {
        "60": None, "66": None, "67": None, "85": None,
        "A2": ("approved", "approved_with_condition", "none"),
        "A4": ("approved", "approved_with_condition", "none"),
        "A5": ("approved", "approved_with_condition", "none"),
        "A6": ("approved", "approved_with_condition", "none"),
        "45": ("declined", "fallback_not_allowed", "other_card"),
        "97": ("declined", "terminal_unknown", "none"),
        "77": ("declined", "sign_in_required", "retry_new_key"),
        "99": ("declined", "pin_block_error", "retry_new_key"),
        "A0": ("declined", "mac_error", "retry_new_key"),
    },
    "codes_only_for": {"85": None},
    # The issuer was not reached, or there is no way to it: what was asked did not happen, and another acquirer may have a way.
    "reroute_codes": ("91", "92"),
    # The host, or the issuer or network behind it, does not serve at the moment.
    "outage_codes": ("91", "96"),
    "reversal_codes": {"77": "retry", "A0": "retry"},
    "reversal_first": True,
    "not_reversed": ("balance_inquiry",),
    "reversal_stan": "original",
    "repeat_mark": False,
    "reversal_reasons": {"unanswered": "98", "answered": "06", "mac_error": "A0", "chip_declined": "06"},
    "mac": ("64", "unionpay_ecb", ("1", "2", "4"), "A0"),
    # The length says what is there: single DES, double DES, with a key for tracks, the same with check values of three bytes. In the older form of
    # 56 bytes the key for tracks has no check value.
    "key_exchange": ("62", {
        24: (("pin", "des", 8, 4), ("mac", "des", 8, 4)),
        40: (("pin", "tdes", 16, 4), ("mac", "tdes", 16, 4)),
        60: (("pin", "tdes", 16, 4), ("mac", "tdes", 16, 4), ("track", "tdes", 16, 4)),
        56: (("pin", "tdes", 16, 4), ("mac", "tdes", 16, 4), ("track", "tdes", 16, 0)),
        57: (("pin", "tdes", 16, 3), ("mac", "tdes", 16, 3), ("track", "tdes", 16, 3)),
    }, {"A0": 3, "99": 3, "77": 1}),
    # a PIN of up to 12 digits; in a block with the card number, under double DES
    "with_pin": {"26": "12", "53": "2600000000000000"},
    "request_fields": ("2", "3", "4", "11", "14", "22", "25", "41", "42", "49", "60"),
    # The host fills in time, date, institution and RRN; it is told neither DE7 nor the merchant's name and trade.
    "omitted": ("7", "12", "13", "18", "32", "37", "43", "90"),
    "composed": {},
    "messages": {
        "purchase.single": ("0200", {"3": "000000", "25": "00"}, (), {"60": "22{batch}00060"}),
        "preauthorization": ("0100", {"3": "030000", "25": "06"}, (), {"60": "10{batch}00060"}),
        "balance_inquiry": ("0200", {"3": "310000", "25": "00"}, (), {"60": "01{batch}00060"}),
        "capture": ("0200", {"3": "000000", "25": "06"}, ("38", "61"), {
            "60": "20{batch}00060", "61": "{original_batch}{original_stan}{original_local_date}"}),
        "void": ("0200", {"3": "200000", "25": "00"}, ("37", "38", "61"), {
            "37": "{original_rrn}", "60": "23{batch}00060", "61": "{original_batch}{original_stan}"}),
        "void.preauthorization": ("0100", {"3": "200000", "25": "06"}, ("38", "61"), {
            "60": "11{batch}00060", "61": "{original_batch}{original_stan}{original_local_date}"}),
        "void.capture": ("0200", {"3": "200000", "25": "06"}, ("37", "38", "61"), {
            "37": "{original_rrn}", "60": "21{batch}00060", "61": "{original_batch}{original_stan}{original_local_date}"}),
        "refund": ("0220", {"3": "200000", "25": "00"}, ("37", "38", "61"), {
            "37": "{original_rrn}", "60": "25{batch}00060", "61": "{original_batch}{original_stan}{original_local_date}"}),
        "offline_sale": ("0220", {"3": "000000", "25": "00"}, ("38",), {"60": "30{batch}00060"}),
        "tip": ("0220", {"3": "000000", "25": "00"}, ("37", "38", "48", "61"), {
            "37": "{original_rrn}", "48": "{amount}", "60": "34{batch}00060", "61": "{original_batch}{original_stan}{original_local_date}"}),
        # what it undoes gives it DE60, and DE61 where there is one
        "reversal": ("0400", {}, ("39", "60", "61"), {"39": "{reversal_reason}"}),
        # Operator 001 in DE63. Refunds are told one by one, as their notices (206), the rest in records (201); 202 ends the upload after totals that
        # did not agree. Chip data of single sales (205), and uploads after totals that did (203, 204, 207), are not said.
        "batch_close": ("0500", {"63": "001"}, ("48", "49"), {"60": "00{batch}201"}),
        "batch_upload": ("0320", {}, ("48",), {"60": "00{batch}201"}),
        "batch_upload.refund": ("0320", {"3": "200000", "25": "00"}, (), {
            "2": "{pan}", "4": "{amount}", "37": "{rrn}", "38": "{approval_code}", "49": "{currency}", "60": "25{batch}206",
            "61": "{original_batch}{original_stan}{original_local_date}"}),
        "batch_end": ("0320", {}, (), {"48": "{count}", "60": "00{batch}202"}),
    },
    "batch": {
        "figures": {
            "48.1": "debits_amount", "48.2": "debits_number", "48.3": "credits_amount", "48.4": "credits_number", "48.5": "zero",
            "48.6": "foreign_debits_amount", "48.7": "foreign_debits_number", "48.8": "foreign_credits_amount", "48.9": "foreign_credits_number",
            "48.10": "zero", "49": "currency",
        },
        "told": ("48.5", "48.10"),
        "own_brands": ("unionpay",),
        "voids": True,
        "items": ("48", 8, "{kind}{item_stan}{card}{amount}"),
    },
    "network": {"sign_on": "003", "sign_off": "002", "echo": "301"},
    "network_rule": {
        "mti": "0800",
        "mtis": {"sign_off": "0820", "echo": "0820"},
        "code": "60.3",
        "composed": {"11": "{stan}", "41": "00000001", "42": "000000000000001", "60": "00000001{code}"},
        "echoed": ("11", "41", "42"),
    },
    "qr_code": ("59", "A3{code_length}{code}"),
    "entry_modes": {"qr": "03"},
    "never_stored": ("35", "36", "52", "53", "57", "59", "62", "64"),
    "shown": "3 4 11 12 13 15 22 23 25 26 27 32 37 38 39 41 42 49 54 60 61 60.1 60.2 60.3 61.1 61.2 61.3",
}
