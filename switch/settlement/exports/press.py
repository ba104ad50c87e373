"""Prints a document as PDF or PNG, as a program of its own: the document (JSON) on standard input, the file on standard output.

`python press.py pdf|png TEMPLATE [FONTS]`. Imports nothing of ours; typst is the optional extra `reports`.
Exit code 4: no font at hand is known to have the document's characters.
"""

import json
import os
import re
import sys
from pathlib import Path

import typst

HAN = re.compile("[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
# What typst's own fonts have: Latin, Greek, Cyrillic, punctuation, currencies, arrows and signs. Of other scripts nobody knows whether a font of this
# machine has them all, and a missing one would be printed as an empty box.
PLAIN = re.compile("[\u0000-\u0250\u0300-\u04ff\u1e00-\u1eff\u2000-\u2040\u20a0-\u20c0\u2116\u2122\u2190-\u22ff]*")
# Families that have Chinese characters; the first that is here is used.
HAN_FAMILIES = ("Noto Sans CJK SC", "Source Han Sans SC", "Noto Serif CJK SC", "Source Han Serif SC", "Noto Sans SC",
                "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei", "SimSun", "Droid Sans Fallback", "AR PL UMing CN")
NO_FONT = 4
DOTS_PER_INCH = 203  # of a receipt printer: 8 dots a millimetre


def main() -> int:
    os.nice(10)
    form, template, fonts = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    document = sys.stdin.buffer.read().decode()
    texts = json.dumps(json.loads(document), ensure_ascii=False)  # as they are printed, however they were written
    here = set(typst.Fonts(include_system_fonts=True, include_embedded_fonts=True, font_paths=fonts).families())
    han = next((family for family in HAN_FAMILIES if family in here), None)
    if (han is None and HAN.search(texts)) or not PLAIN.fullmatch(HAN.sub("", texts)):
        return NO_FONT
    # The root is the templates' folder, so that a document could read nothing else of this machine.
    made = typst.compile(str(template), root=str(template.parent), font_paths=fonts, format="png" if form == "png" else "pdf",
                         ppi=DOTS_PER_INCH if form == "png" else None, sys_inputs={"document": document, "han": han or ""})
    sys.stdout.buffer.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
